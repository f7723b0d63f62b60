"""transformers, sentence-transformers, and LM_Cocktail's API."""
