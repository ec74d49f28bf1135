"""Where the data are worked on: Beam's runners, what a cluster must have, and its workers."""
