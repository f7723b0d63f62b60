"""Model cards, recipe repos, and one commit on the Hub."""
