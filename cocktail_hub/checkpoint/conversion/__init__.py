"""Differently named and differently cut checkpoints under one model's names."""
