import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "pipeline": {"pipeline", "components", "trainer", "serving"},
    "components": {"components", "trainer", "serving"},
    "trainer": {"trainer"},
    "serving": {"serving"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        ours = imported(path) & set(MAY_IMPORT)
        assert ours <= MAY_IMPORT[package], f"{path} imports {ours - MAY_IMPORT[package]}"


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
