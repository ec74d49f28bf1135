"""Tries a model as the server would use it."""
