"""The networks and their training; knows nothing of TFX."""

import conveyor.onednn  # noqa: F401
