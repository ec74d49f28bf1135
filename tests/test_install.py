import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def install():
    spec = importlib.util.spec_from_file_location("install", ROOT / "requirements" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("libc", "stack"),
    [
        (("glibc", "2.36"), "tfx1.16"),
        (("glibc", "2.39"), "tfx1.21"),
        (("glibc", "2.41"), "tfx1.21"),
        (("", ""), "tfx1.16"),
    ],
)
def test_stack_is_chosen_by_glibc(install, libc, stack):
    assert install.choose_stack(libc)[0] == stack


def test_every_stack_has_its_lock(install):
    for libc in (("glibc", "2.36"), ("glibc", "2.41")):
        stack, versions = install.choose_stack(libc)
        for version in versions:
            lock = (ROOT / "requirements" / f"{stack}-py{version.replace('.', '')}.lock").read_text()
            assert "tfx==" in lock
            assert "--hash=sha256:" in lock
            assert "jupyterlab" not in lock
            assert "widgetsnbextension==" not in lock


def fake_python(path, version):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version} /usr/include\n" if version else "#!/bin/sh\nexit 127\n")
    path.chmod(0o755)


def test_shim_that_does_not_run_is_passed_over_for_pyenvs_own(install, tmp_path, monkeypatch):
    fake_python(tmp_path / "shims" / "python3.10", None)
    fake_python(tmp_path / "pyenv" / "versions" / "3.10.13" / "bin" / "python", "3.10")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'shims'}:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.delenv("PYTHON", raising=False)
    python, version, include = install.find_python(["3.10"])
    assert (python, version, include) == (
        str(tmp_path / "pyenv" / "versions" / "3.10.13" / "bin" / "python"),
        "3.10",
        "/usr/include",
    )
    fake_python(tmp_path / "mine", "3.10")
    monkeypatch.setenv("PYTHON", str(tmp_path / "mine"))
    assert install.find_python(["3.10"])[0] == str(tmp_path / "mine")


def test_uvs_python_is_found(install, tmp_path, monkeypatch):
    fake_python(tmp_path / "uv" / "cpython-3.10.19-linux-x86_64-gnu" / "bin" / "python3.10", "3.10")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    for name, value in (("PATH", "/bin"), ("PYENV_ROOT", str(tmp_path)), ("UV_PYTHON_INSTALL_DIR", f"{tmp_path}/uv")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHON", raising=False)
    assert "cpython-3.10.19" in install.find_python(["3.10"])[0]


def test_no_python_is_one_sentence(install, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    for name in ("PATH", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("PYTHON", raising=False)
    with pytest.raises(SystemExit, match=r"No Python 3\.10 was found .*install one .*PYTHON=/path/to/python"):
        install.find_python(["3.10"])


def test_wheel_holds_the_packages_the_template_and_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PIP_NO_INDEX": "1"})
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "conveyor = pipeline.cli.main:main" in wheel.read(entry_points).decode()
    assert {
        "pipeline/report/report.html.j2",
        "pipeline/schedule/export.j2",
        "conveyor/errors.py",
        "trainer/__main__.py",
        "serving/servability.py",
    } <= names
    assert "components/atomic_pusher/component.py" in names
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)
