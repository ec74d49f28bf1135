"""The networks and their training; knows nothing of TFX."""

# It sets how TensorFlow computes, before that is imported.
import conveyor  # noqa: F401
