"""What runs, in which order, and who asked for it."""
