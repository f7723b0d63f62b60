"""From losses to weights."""
