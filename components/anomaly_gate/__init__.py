"""Stops a run on anomalous data."""
