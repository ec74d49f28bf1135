"""Puts a model where the server finds it, atomically."""
