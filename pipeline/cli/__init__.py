"""The verbs of `conveyor`: each reads its options, calls one function of the rooms below, and prints the result."""
