"""The verbs of `conveyor`: each reads its options, calls one function of the rooms below, and prints the result."""

import gc

gc.set_threshold(100_000)  # what is imported stays: to look for garbage in it so often takes a fifth of a short command
