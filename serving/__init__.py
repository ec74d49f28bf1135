"""What serves pushed models; knows neither TFX nor the trainer."""

import conveyor.onednn  # noqa: F401
