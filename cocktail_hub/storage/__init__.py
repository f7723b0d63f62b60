"""This machine's disk: cache, locks, atomic writes, hashes, free space."""
