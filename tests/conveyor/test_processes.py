import os
import signal
import subprocess
import sys
import time

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: (print("Stopped, with a checkpoint.", file=sys.stderr), sys.exit(130)))
print("begun", flush=True)
time.sleep(60)
"""
CALLER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in the background
from pathlib import Path
from conveyor import processes
processes.run([sys.executable, "-c", sys.argv[1]], Path("."), {})
"""


def test_ctrl_c_lets_the_other_process_come_to_its_end():
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, said = process.communicate(timeout=30)
    assert said.startswith("Stopping; Ctrl+C again stops at once.\nStopped, with a checkpoint.\n")
    assert "KeyboardInterrupt" in said
    assert time.monotonic() - started < 30
