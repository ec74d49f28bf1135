import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from conveyor import processes
from conveyor.fork_server import FILES

ROOT = Path(__file__).parents[2]
# What a program does that says that it has begun, and ends when it is let.
WAITS = """
pathlib.Path("begun").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
"""
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
processes.run(["stopping"], Path("."), {}, stops=True)
"""


def calling(folder, program):
    """Starts a process that runs a program, and returns it when the program has begun."""
    (folder / "stopping.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    return process


def test_ctrl_c_lets_the_other_process_come_to_its_end(tmp_path):
    process = calling(tmp_path, PROGRAM)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, said = process.communicate(timeout=30)
    assert "Stopping; Ctrl+C again stops at once.\nStopped, with a checkpoint.\n" in said
    assert "KeyboardInterrupt" in said
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_is_stopped_where_nothing_can_be_said(tmp_path, number):
    """As where the disk of a log is full."""
    stops = "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('stopped').touch(), sys.exit(130)))"
    program = f"import pathlib, signal, sys, time\n{stops}\nprint('begun', flush=True)\ntime.sleep(60)"
    (tmp_path / "stopping.py").write_text(program)
    told = "with processes.on_stop(lambda: processes.tell('It stops.')): "
    caller = CALLER.replace("processes.run", f"{told}processes.run")
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", caller, str(tmp_path)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=full, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    assert (tmp_path / "stopped").exists()


def test_ctrl_c_again_stops_at_once(tmp_path):
    process = calling(tmp_path, PROGRAM.replace("sys.exit(130)", "time.sleep(60)"))
    os.kill(process.pid, signal.SIGINT)
    assert any("Stopped, with a checkpoint." in line for line in process.stderr)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - started < 30


def wait_until(is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def server():
    """Starts the fork server, waits until it has imported all, and returns its process."""
    assert processes.run(["keyword"], ROOT, {})[0] == 0
    return processes._SERVER._process


def test_what_programs_are_forked_from_has_no_threads_of_tensorflow():
    """OpenBLAS and jemalloc stop their own threads around a fork, and the interpreter has its one."""
    names = [path.read_text().strip() for path in Path(f"/proc/{server().pid}/task").glob("*/comm")]
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1, names


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program, and returns what running it gives: exit code, last line of its errors, and its output."""
    monkeypatch.syspath_prepend(tmp_path)
    numbers = threading.Lock()

    def run(code, *arguments, **options):
        with numbers:
            name = f"program_{len(list(tmp_path.glob('*.py')))}"
            (tmp_path / f"{name}.py").write_text(code)
        with (tmp_path / f"{name}.txt").open("w+") as output:
            ended = processes.run([name, *arguments], tmp_path, {"GIVEN": "yes"}, output, **options)
            output.seek(0)
            return (*ended, output.read())

    return run


def test_a_program_has_its_arguments_folder_environment_and_output(program, tmp_path):
    code, last, output = program("import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['GIVEN'])", "a", "b c")
    assert (code, last, output) == (0, "it said nothing", f"['a', 'b c'] {tmp_path} yes\n")
    assert processes.run(["program_0"], tmp_path, {})[0] == 1  # GIVEN was of the one program alone


@pytest.mark.parametrize(
    ("code", "ended", "last"),
    [
        ("import sys; sys.exit(3)", 3, "it said nothing"),
        ("import sys; print('one', file=sys.stderr); sys.exit('two')", 1, "two"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("import os; os.kill(os.getpid(), 9)", -9, "it said nothing"),
        ("import os; os.abort()", -6, "it said nothing"),
    ],
)
def test_how_a_program_ended_is_told(program, code, ended, last):
    assert program(code)[:2] == (ended, last)


def test_what_a_program_prints_comes_out_line_by_line(program):
    code = "import os, sys; print('told'); print('wrong', file=sys.stderr); os.kill(os.getpid(), 9)"
    assert program(code) == (-9, "wrong", "told\n")


def test_a_program_does_at_its_exit_what_it_registered(program):
    assert program("import atexit, sys; atexit.register(print, 'tidied'); sys.exit(4)") == (
        4,
        "it said nothing",
        "tidied\n",
    )


def test_a_program_that_dies_leaves_the_next_one_alone(program):
    assert program("import os; os.kill(os.getpid(), 11)")[0] == -11
    assert program("print('well')")[2] == "well\n"


def test_the_script_that_runs_a_program_does_not_begin_again(tmp_path):
    (tmp_path / "program.py").write_text("print('program')")
    script = tmp_path / "script.py"
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; from pathlib import Path; "
    code += "print('script', flush=True); from conveyor import processes; processes.run(['program'], Path('.'), {})"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "script\nprogram\n", done.stderr


def test_a_stop_is_for_all_that_run_at_the_time():
    acted = []
    with processes.on_stop(lambda: acted.append("outer")):
        inner = processes.on_stop(lambda: acted.append("inner"))
        thread = threading.Thread(target=inner.__enter__)
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGTERM)
        assert acted == ["inner", "outer"]
        inner.__exit__(None, None, None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert acted == ["inner", "outer", "outer"]


def test_modules_of_the_users_folder_do_not_stand_in_for_ours(tmp_path):
    (tmp_path / "trainer.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "asks.py").write_text("import trainer.loop, sys; sys.exit(0)")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from conveyor import processes; "
    code += f"sys.path.append({str(tmp_path)!r}); print(processes.run(['asks'], Path('.'), {{}})[0]); "
    code += "processes._SERVER._process.kill(); processes._SERVER._process.wait(); "  # another is started
    code += "print(processes.run(['asks'], Path('.'), {})[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n0\n", done.stderr


def test_the_end_of_what_programs_are_forked_from_is_told(program, tmp_path):
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
    assert program(code)[:2] == (-signal.SIGKILL, "it said nothing")
    assert program("print('well')")[2] == "well\n"


def open_files(process):
    return {int(path.name) for path in Path(f"/proc/{process}/fd").iterdir()}


@pytest.mark.parametrize("left", range(FILES + 1))  # with all, the process descriptor is one too many
def test_a_program_that_cannot_be_forked_leaves_the_others_alone(program, tmp_path, left):
    lasting = threading.Thread(target=lambda: ended.append(program(f"import pathlib, time\n{WAITS}")))
    ended, (begun, go) = [], (tmp_path / "begun", tmp_path / "go")
    lasting.start()
    wait_until(begun.exists)
    server_process = processes._SERVER._process.pid
    settled = [set(), open_files(server_process)]
    while settled[-1] != settled[-2]:  # it still closes what was of the request
        time.sleep(0.1)
        settled.append(open_files(server_process))
    free = [number for number in range(1000) if number not in settled[-1]]
    few = free[left]
    before = resource.prlimit(server_process, resource.RLIMIT_NOFILE)
    resource.prlimit(server_process, resource.RLIMIT_NOFILE, (few, before[1]))
    with pytest.raises(processes.NotBegun, match=r"Too many open files" if left else "or may open no file"):
        program("print('well')")
    resource.prlimit(server_process, resource.RLIMIT_NOFILE, before)
    go.touch()
    lasting.join()
    assert ended[0][0] == 0
    assert program("print('well')")[2] == "well\n"


def test_a_server_that_cannot_import_is_told_of(new_server, monkeypatch, program):
    monkeypatch.setattr(processes, "IMPORTED", ("there_is_no_such_module",))
    with pytest.raises(
        processes.NotBegun, match=r"A process for program_\d could not be begun: what it is forked from has ended"
    ):
        program("print('well')")


@pytest.fixture
def new_server(monkeypatch):
    made = processes._ForkServer()
    monkeypatch.setattr(processes, "_SERVER", made)
    yield
    made.close()


def test_a_stop_that_came_before_the_program_is_heeded(program):
    with processes.on_stop(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
        assert program("import time; time.sleep(60)", stops=True)[0] == -signal.SIGTERM
    assert program("print('well')", stops=True)[2] == "well\n"  # it was another block's


def test_a_stop_is_not_lost_while_the_server_imports(new_server, program):
    with processes.on_stop(lambda: None):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert program("import time; time.sleep(60)", stops=True)[0] == -signal.SIGTERM


def test_ctrl_c_before_the_program_has_begun_leaves_none(program):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asleep = server()
        asleep.send_signal(signal.SIGSTOP)  # so that it answers no request
        for seconds in (0.3, 0.6):  # the first waits for it, and the second does not
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            program("import time; time.sleep(60)")
    finally:
        signal.signal(signal.SIGINT, before)
    asleep.send_signal(signal.SIGCONT)
    assert program("print('well')")[2] == "well\n"  # after the other was begun
    wait_until(lambda: not psutil.Process(asleep.pid).children())


def test_stops_that_come_at_once_are_one(program):
    acted = []

    def act():
        if not acted:
            os.kill(os.getpid(), signal.SIGTERM)  # in the midst of the other
            time.sleep(0.01)
        acted.append(1)

    with processes.on_stop(act):
        os.kill(os.getpid(), signal.SIGTERM)
    assert acted == [1]


def test_programs_that_run_or_begin_can_be_killed(program, tmp_path):
    ended = []
    with processes.on_stop(lambda: None):
        running = threading.Thread(target=lambda: ended.append(program(f"import pathlib, time\n{WAITS}")[0]))
        running.start()
        wait_until((tmp_path / "begun").exists)
        processes.kill_running()
        running.join()
        assert program("import time; time.sleep(60)")[0] == -signal.SIGKILL
    assert ended == [-signal.SIGKILL]


def test_a_program_that_does_not_stop_is_not_told_to(program):
    with processes.on_stop(lambda: None):  # as a service manager does that stops a whole group
        code = "import os, signal; [os.kill(number, signal.SIGTERM) for number in (os.getpid(), int(os.sys.argv[1]))]"
        assert program(f"{code}; print('well')", str(os.getpid()))[2] == "well\n"


def test_programs_may_be_run_by_threads(program):
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(program("import time; time.sleep(1)"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [(0, "it said nothing", "")] * 3


def test_programs_draw_other_numbers(program):
    draw = "import numpy, random; print(numpy.random.random(), random.random())"
    assert program(draw)[2].split() != program(draw)[2].split()


def test_the_environment_is_that_of_now(program, monkeypatch):
    server()
    monkeypatch.setenv("SET_LATER", "yes")
    assert program("import os; print(os.environ['SET_LATER'], os.environ['GIVEN'])")[2] == "yes yes\n"
