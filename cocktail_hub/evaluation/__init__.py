"""Run models on examples and measure their losses, and load finished mixes.

examples -> scorer (decoder, encoder, reranker or seq2seq) -> losses
"""
