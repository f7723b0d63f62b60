"""The Hub's addresses, and the function that answers each."""
