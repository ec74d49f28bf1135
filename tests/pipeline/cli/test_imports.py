"""What a verb imports is what its user waits for."""

import subprocess
import sys

import pytest

HEAVY = ("asyncio", "numpy", "tensorflow", "tfx", "apache_beam", "keras", "PIL", "pooch", "matplotlib", "pandas")


@pytest.mark.parametrize("verb", ["models", "runs", "settings"])
def test_a_verb_that_only_looks_imports_nothing_heavy(verb, tmp_path):
    code = (
        "import sys; from pipeline.cli.main import main\n"
        f"try: main([{verb!r}, *{['mnist'] if verb == 'settings' else []}, '--home', {str(tmp_path)!r}])\n"
        f"except SystemExit: print('imported', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "imported []", done.stdout + done.stderr
