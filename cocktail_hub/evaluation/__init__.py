"""Run models on examples, measure their losses and other metrics, and load finished mixes.

examples -> scorer (decoder, encoder, reranker or seq2seq) -> losses
examples -> measure -> metrics -> intervals
"""
