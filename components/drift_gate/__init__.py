"""Compares what arrived with what the serving model was trained on."""
