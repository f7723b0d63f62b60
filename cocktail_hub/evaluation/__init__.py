"""Shares from a few examples: the loss of each ingredient, and `softmax(-loss / temperature)` (LM-Cocktail).

examples -> scorer (decoder, encoder, reranker, seq2seq) -> losses -> rules -> shares -> report
"""
