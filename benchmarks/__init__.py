"""Measurements: each prints machine, versions, n, median and range, and stores them with its own source's hash."""
