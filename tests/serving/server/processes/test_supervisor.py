import subprocess
import sys


def test_the_supervisor_does_not_import_tensorflow():
    code = "import sys, serving.server.processes.supervisor; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
