"""The folder of a model: its versions, their labels and records, written so that a crash loses nothing."""
