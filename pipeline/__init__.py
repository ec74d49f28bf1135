"""What runs, in which order, and who asked for it."""

import conveyor.onednn  # noqa: F401
