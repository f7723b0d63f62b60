"""From header specs to a plan, and from a plan to weight files."""
