"""The report of a run: the page, its plots, and the decisions of the gates in words."""
