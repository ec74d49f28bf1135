"""What runs, in which order, and who asked for it."""

# It sets how TensorFlow computes, before that is imported.
import conveyor  # noqa: F401
