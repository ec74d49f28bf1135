"""The networks and their training; knows nothing of TFX."""
