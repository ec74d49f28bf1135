"""Brings data into the home folder: downloads of published data sets, and new spans."""
