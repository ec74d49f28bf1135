import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conveyor import processes

ROOT = Path(__file__).parents[2]
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
sys.path.insert(0, sys.argv[1])
processes.run(["stopping"], Path("."), {})
"""


def test_ctrl_c_lets_the_other_process_come_to_its_end(tmp_path):
    (tmp_path / "stopping.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, said = process.communicate(timeout=30)
    assert "Stopping; Ctrl+C again stops at once.\nStopped, with a checkpoint.\n" in said
    assert "KeyboardInterrupt" in said
    assert time.monotonic() - started < 30


IMPORTS = """
import os
from conveyor import processes
for name in processes.IMPORTED:
    __import__(name)
for thread in os.listdir("/proc/self/task"):
    print(open(f"/proc/self/task/{thread}/comm").read().strip())
"""


def test_what_programs_are_forked_from_has_no_threads_of_tensorflow():
    """OpenBLAS and jemalloc stop their own threads around a fork, and the interpreter has its one."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    threads = [name for name in done.stdout.splitlines() if name != "jemalloc_bg_thd"]
    assert len(threads) == 1, threads


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program, and returns what running it gives: exit code, last line of its errors, and its output."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(code, *arguments):
        name = f"program_{len(list(tmp_path.glob('*.py')))}"
        (tmp_path / f"{name}.py").write_text(code)
        with (tmp_path / "output").open("w+") as output:
            ended = processes.run([name, *arguments], tmp_path, {"GIVEN": "yes"}, output)
            output.seek(0)
            return (*ended, output.read())

    return run


def test_a_program_has_its_arguments_folder_environment_and_output(program, tmp_path):
    code, last, output = program("import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['GIVEN'])", "a", "b c")
    assert (code, last, output) == (0, "", f"['a', 'b c'] {tmp_path} yes\n")
    assert processes.run(["program_0"], tmp_path, {})[0] == 1  # GIVEN was of the one program alone


@pytest.mark.parametrize(
    ("code", "ended", "last"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; print('one', file=sys.stderr); sys.exit('two')", 1, "two"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os; os.abort()", -6, ""),
    ],
)
def test_how_a_program_ended_is_told(program, code, ended, last):
    assert program(code)[:2] == (ended, last)


def test_what_a_program_prints_comes_out_line_by_line(program):
    code = "import os, sys; print('told'); print('wrong', file=sys.stderr); os.kill(os.getpid(), 9)"
    assert program(code) == (-9, "wrong", "told\n")


def test_a_program_does_at_its_exit_what_it_registered(program):
    assert program("import atexit, sys; atexit.register(print, 'tidied'); sys.exit(4)") == (4, "", "tidied\n")


def test_a_program_that_dies_leaves_the_next_one_alone(program):
    assert program("import os; os.kill(os.getpid(), 11)")[0] == -11
    assert program("print('well')") == (0, "", "well\n")


def test_modules_of_the_users_folder_do_not_stand_in_for_ours(tmp_path):
    (tmp_path / "trainer.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "asks.py").write_text("import trainer.loop, sys; sys.exit(0)")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from conveyor import processes; "
    code += f"sys.path.append({str(tmp_path)!r}); print(processes.run(['asks'], Path('.'), {{}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "(0, '')\n", done.stderr
