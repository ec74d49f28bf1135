import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("conveyor", "pipeline", "components", "trainer", "serving")
ROOMS = sorted(path.parent.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_says_what_it_is_for(room):
    assert ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_is_not_crowded(room):
    modules = [path for path in (ROOT / room).glob("*.py") if not path.name.startswith("__")]
    assert len(modules) <= 10


@pytest.mark.slow
def test_imports_run_one_way():
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("package", ["trainer", "serving"])
def test_imports_without_tfx(package):
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    block = "import sys; sys.modules['tfx'] = sys.modules['apache_beam'] = sys.modules['ml_metadata'] = None"
    code = f"{block}; import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
