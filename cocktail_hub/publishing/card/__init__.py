"""Model cards: the README.md that says what a mix is made of, how to load it and how to make it again."""
