"""A home folder's life: random sequences of what people, clocks and accidents do to it."""
