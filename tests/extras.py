"""What tests use besides this stack: an extra, whose lock has what the stack lacks, or an environment of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

LOCKS = Path(__file__).parents[1] / "requirements"
UV = Path(sys.executable).with_name("uv")


def extra(request, name: str) -> Path:
    """Returns a folder to import from; it outlives the session. A test is skipped where it cannot be had."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    site = request.config.cache.mkdir("conveyor-extras") / f"{name}-{version}"
    with filelock.FileLock(f"{site}.lock"):
        if not site.is_dir():
            command = [UV, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable]
            command += ["--target", f"{site}.part", "-r", LOCKS / "extras" / f"{name}.lock"]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(f"{site}.part", ignore_errors=True)
                pytest.skip(f"needs {name}: {done.stderr.strip()[-300:]}")
            Path(f"{site}.part").rename(site)
    return site


def environment(folder: Path, name: str) -> Path:
    """Returns the Python of an environment with what a lock names, and nothing else; skips where it cannot be had."""
    python, lock = folder / "bin" / "python", LOCKS / "clients" / f"{name}.lock"
    for command in (
        [UV, "venv", "--quiet", "--python", sys.executable, folder],
        [UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"needs {name}: {done.stderr.strip()[-300:]}")
    return python
