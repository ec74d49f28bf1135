"""What the server says, and what it keeps its libraries from saying."""

import logging
import os
import warnings


def set_up(name: str = "") -> None:
    """Sets the log up; called before TensorFlow is imported.

    Args:
      name: of the process, where there are several.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what goes wrong is raised, and said by us
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    warnings.filterwarnings("ignore", module="google")  # of Python versions, on import
    prefix = f"[{name}] " if name else ""
    logging.basicConfig(format=f"%(asctime)s %(levelname).1s {prefix}%(message)s", level=logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # the v1 loader is deprecated, and what is wanted here
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it logs what is no HTTP with a traceback
