"""The TFX components that TFX lacks."""

# It sets how TensorFlow computes, before that is imported.
import conveyor  # noqa: F401
