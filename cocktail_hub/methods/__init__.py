"""Merge methods as pure functions that read like their papers, and what each must know of a tensor first."""
