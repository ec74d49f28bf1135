"""Ingests labelled images."""
