"""The weights of one ingredient: what is in them, known from headers, and how to read them a piece at a time."""
