"""States what the data must be like."""
