"""Which versions of a model are wanted: the numbered folders below its base path, chosen by the version policy.

Source: https://www.tensorflow.org/tfx/serving/serving_config
"""

import errno
import os
from pathlib import Path
from typing import Any

MAX_VERSION = 2**63 - 1


def available(base: Path) -> dict[int, Path]:
    """Returns the versions in a folder: number to path.

    Raises:
      OSError: the folder cannot be read, or goes while it is read, so that its versions only seem to be gone.
    """
    found, before = {}, base.stat()
    for path in base.iterdir():
        if path.name.isascii() and path.name.isdigit() and int(path.name) <= MAX_VERSION and path.is_dir():
            found[int(path.name)] = path
    if not os.path.samestat(base.stat(), before):
        raise FileNotFoundError(errno.ENOENT, "Another folder took its place while it was read", str(base))
    return found


def wanted(found: dict[int, Path], policy: Any) -> dict[int, Path]:
    """Returns those that a policy asks for.

    Args:
      found: number to path.
      policy: a ServableVersionPolicy; an empty one asks for the latest.
    """
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return found
    if choice == "specific":
        return {version: path for version, path in found.items() if version in set(policy.specific.versions)}
    newest = sorted(found, reverse=True)[: max(1, policy.latest.num_versions)]
    return {version: found[version] for version in newest}
