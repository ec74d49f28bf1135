"""Measures the label and the derived scalars of examples."""
