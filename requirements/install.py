"""Makes `.venv` with everything Conveyor needs: finds a Python, chooses the stack, installs its lock with uv.

    python3 requirements/install.py          # does nothing if nothing has changed
    PYTHON=/path/to/python3.10 python3 requirements/install.py

Needs only the standard library, and runs on any Python from 3.8 on: it looks for the one that the stack needs.
"""

import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".installed"
NEW_GLIBC = (2, 39)  # the wheels of ml-metadata and tensorflow-data-validation for TFX 1.17 and later need it
PROBE = "import sys, sysconfig, venv, ensurepip; print('%d.%d' % sys.version_info[:2], sysconfig.get_path('include'))"


def main():
    """Installs, or says in one sentence why not."""
    stack, versions = choose_stack(platform.libc_ver())
    if is_current(stack):
        return
    python, version, include = find_python(versions)
    check_compiler(include)
    lock = ROOT / "requirements" / f"{stack}-py{version.replace('.', '')}.lock"
    print(f"Setting up .venv: {stack.replace('tfx', 'TFX ')} on Python {version} ({python})", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    run(python, "-m", "venv", str(VENV))
    own = str(VENV / "bin" / "python")
    run(own, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(ROOT / "requirements" / "uv.lock"))
    # The locks are complete, and what they leave out is left out on purpose: nothing is to be resolved here.
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--quiet", "--python", own, "--no-deps", "--compile-bytecode"]
    run(*uv, "--require-hashes", "-r", str(lock))
    # As a path, which also holds in a folder with another `conveyor` in it: that of a clone, say.
    run(*uv, "--no-build-isolation", "--config-setting", "editable_mode=compat", "--editable", str(ROOT))
    STAMP.write_text(digest(stack, lock))


def choose_stack(libc):
    """Returns the stack's name and the Python versions that it runs on, the best first.

    Args:
      libc: what `platform.libc_ver()` returns.
    """
    name, version = libc
    if name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= NEW_GLIBC:
        return "tfx1.21", ["3.12", "3.13", "3.11", "3.10"]
    return "tfx1.16", ["3.10"]


def is_current(stack):
    """Whether `.venv` holds this stack, as this script and its lock would make it now."""
    if not STAMP.exists():
        return False
    return any(STAMP.read_text() == digest(stack, lock) for lock in (ROOT / "requirements").glob(f"{stack}-*.lock"))


def digest(stack, lock):
    """Returns a digest of all that determines `.venv`."""
    files = [lock, ROOT / "requirements" / "uv.lock", ROOT / "setup.py", Path(__file__)]
    return hashlib.sha256(b"".join([stack.encode(), str(ROOT).encode(), *(f.read_bytes() for f in files)])).hexdigest()


def candidates(version):
    """Yields where a Python of some version may be: $PYTHON, this one, the PATH, pyenv's versions, uv's."""
    if os.environ.get("PYTHON"):
        yield os.environ["PYTHON"]
    yield sys.executable
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield os.path.join(folder, f"python{version}")
    home = os.path.expanduser("~")
    pyenv = os.environ.get("PYENV_ROOT", os.path.join(home, ".pyenv"))
    yield from sorted(glob.glob(os.path.join(pyenv, "versions", f"{version}*", "bin", "python")), reverse=True)
    uv = os.environ.get("UV_PYTHON_INSTALL_DIR", os.path.join(home, ".local", "share", "uv", "python"))
    yield from sorted(glob.glob(os.path.join(uv, f"cpython-{version}*", "bin", f"python{version}")), reverse=True)


def find_python(versions):
    """Returns a Python that runs and can make environments: its path, its version and its folder of headers."""
    for version in versions:
        for candidate in candidates(version):
            found = probe(candidate)
            if found and found[0] == version:
                return candidate, *found
    if shutil.which("uv"):
        installed = subprocess.run(["uv", "python", "install", versions[0]], check=False).returncode == 0
        for candidate in candidates(versions[0]) if installed else ():
            found = probe(candidate)
            if found and found[0] == versions[0]:
                return candidate, *found
    wanted = " or ".join(versions)
    sys.exit(
        f"No Python {wanted} was found that runs and can make environments: install one "
        f"(apt install python{versions[0]}-venv, pyenv install {versions[0]} or uv python install {versions[0]}), "
        "or name it with PYTHON=/path/to/python."
    )


def probe(python):
    """Returns a Python's version and folder of headers; None where it does not run (a pyenv shim may not)."""
    if not shutil.which(python):
        return None
    done = subprocess.run([python, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return done.stdout.decode().strip().split(" ", 1) if done.returncode == 0 else None


def check_compiler(include):
    """Stops where a package that comes as source could not be built."""
    if not (shutil.which("c++") or shutil.which("g++")) or not Path(include, "Python.h").exists():
        sys.exit("A C++ compiler and Python's headers are needed to build some packages: apt install g++ python3-dev.")


def run(*command):
    """Runs a command; ends this script where it fails, with its own message above."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every process would compile TensorFlow and TFX anew
    environment.pop("VIRTUAL_ENV", None)
    if "PIP_INDEX_URL" in environment:
        environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        sys.exit(f"Setting up .venv failed: {' '.join(command[:4])} ... ended with {done.returncode}.")


if __name__ == "__main__":
    main()
