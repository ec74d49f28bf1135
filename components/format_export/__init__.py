"""Converts a model to further formats, and measures each."""
