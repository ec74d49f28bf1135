"""What an extra adds to this stack, for tests that use it: its lock has what the stack lacks."""

import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

LOCKS = Path(__file__).parents[1] / "requirements" / "extras"


def extra(request, name: str) -> Path:
    """Returns a folder to import from; it outlives the session. A test is skipped where it cannot be had."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = request.config.cache.mkdir("conveyor-extras") / f"{name}-{version}"
    uv = Path(sys.executable).with_name("uv")
    with filelock.FileLock(f"{site}.lock"):
        if not site.is_dir():
            command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable]
            command += ["--target", f"{site}.part", "-r", LOCKS / f"{name}.lock"]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(f"{site}.part", ignore_errors=True)
                pytest.skip(f"needs {name}: {done.stderr.strip()[-300:]}")
            Path(f"{site}.part").rename(site)
    return site
