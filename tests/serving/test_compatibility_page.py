"""The table of what agrees with TensorFlow Serving is of the tests that there are."""

import json
import subprocess
import sys
from pathlib import Path

from tests import compatibility

ROOT = Path(__file__).parents[2]
COLLECT = """
import json, sys
import pytest
from tests import compatibility

class Keeper:
    def pytest_collection_finish(self, session):
        cases = [value for item in session.items for name, value in item.user_properties if name == "compatible"]
        print("CASES", json.dumps(cases))

sys.exit(pytest.main(["--collect-only", "-qq", "-m", "compatible", "tests/serving", "tests/end_to_end"], [Keeper()]))
"""


def test_the_page_is_of_the_tests_that_are_marked():
    done = subprocess.run([sys.executable, "-c", COLLECT], cwd=ROOT, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("CASES "))
    cases = [tuple(case) for case in json.loads(line.removeprefix("CASES "))]
    assert len(cases) >= 250
    assert compatibility.PAGE.read_text() == compatibility.page(cases), "make compatibility writes it anew"
