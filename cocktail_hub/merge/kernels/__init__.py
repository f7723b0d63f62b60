"""Compute one chunk of one tensor, with numpy or torch."""
