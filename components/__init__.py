"""The TFX components that TFX lacks."""

import conveyor.onednn  # noqa: F401
