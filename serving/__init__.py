"""What serves pushed models; knows neither TFX nor the trainer."""

# It sets how TensorFlow computes, before that is imported.
import conveyor  # noqa: F401
