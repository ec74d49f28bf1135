import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERB = """
import click
from conveyor.errors import ConfigError, ExitCode
from pipeline.cli.options import JSON
from pipeline.cli.output import Verb, reply, reply_now, table

@click.command(cls=Verb)
@JSON
def verb():
    print("progress", flush=True)
    table("rows", [{"a": 1}], "")
    reply_now()({"ready": True})
    reply([1, 2])
    BODY

verb()
"""


def run(body, *arguments):
    command = [sys.executable, "-c", VERB.replace("BODY", body), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def last(done):
    """Returns the JSON after the first line, which `reply_now` printed."""
    return json.loads(done.stdout.partition("\n")[2])


def test_with_json_standard_output_holds_the_replies_alone():
    done = run("return ExitCode.NOTHING_NEW", "--json")
    assert done.returncode == 4
    first, _, rest = done.stdout.partition("\n")
    assert json.loads(first) == {"ready": True}
    assert json.loads(rest) == [1, 2]
    assert "progress" in done.stderr


def test_a_verb_that_goes_on_prints_each_object_on_a_line():
    code = VERB.replace("cls=Verb", "cls=StreamingVerb").replace("import Verb", "import StreamingVerb")
    command = [sys.executable, "-c", code.replace("BODY", "raise ConfigError('wrong')"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {"ready": True}
    assert second["error"] == "wrong"


def test_without_json_there_are_no_replies():
    done = run("return None")
    assert done.returncode == 0
    assert "progress" in done.stdout
    assert "ready" not in done.stdout
    assert "rows" in done.stdout


def test_an_error_is_a_sentence_and_its_exit_code():
    done = run("raise ConfigError('wrong')")
    assert (done.returncode, done.stderr.strip()) == (2, "conveyor: wrong")


def test_with_json_an_error_is_the_reply():
    done = run("raise ConfigError('wrong')", "--json")
    assert json.loads(done.stdout.splitlines()[0]) == {"ready": True}
    assert last(done) == {"verdict": "failed", "error": "wrong"}


def test_a_stop_is_not_a_failure():
    done = run("from pipeline.run.runner import RunStopped; raise RunStopped('stopped')", "--json")
    assert done.returncode == 130
    assert last(done)["verdict"] == "stopped"


def test_a_bug_keeps_its_traceback():
    done = run("raise OSError('a bug')", "--json")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert last(done)["error"] == "a bug"


def test_an_interruption_ends_with_130():
    done = run("raise KeyboardInterrupt", "--json")
    assert done.returncode == 130
    assert last(done)["verdict"] == "stopped"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_with_130_and_a_reply(name):
    done = run(f"import os, signal, time; os.kill(os.getpid(), signal.{name}); time.sleep(9)", "--json")
    assert done.returncode == 130
    assert done.stderr.endswith("conveyor: Interrupted.\n")
    assert "Traceback" not in done.stderr
    assert last(done) == {"verdict": "stopped", "error": "Interrupted."}


def test_where_something_else_is_done_on_sigterm_it_is_no_interruption():
    done = run(
        "import os, signal; from conveyor import processes; said = []\n"
        "    with processes.on_stop(lambda: said.append(1)):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    reply(said)",
        "--json",
    )
    assert (done.returncode, done.stdout.splitlines()[-3:]) == (0, ["[", " 1", "]"])


def test_a_usage_error_of_the_verb_is_a_reply_too():
    done = run("raise click.UsageError('not both')", "--json")
    assert done.returncode == 2
    assert last(done) == {"verdict": "failed", "error": "not both"}
    assert "Usage" in done.stderr


ROWS = [
    {
        "run": "mnist-20261122T000000000-0123456789ab",
        "state": "pushed",
        "version": 1,
        "component": None,
        "reason": None,
    },
    {
        "run": "mnist-20261123T000000000-0123456789ab",
        "state": "failed",
        "version": None,
        "component": "ImageExampleGen",
        "reason": "ImageExampleGen failed: /data/x.png: expected a whole PNG or JPEG picture, found a text",
    },
]


def shown(rows, width, left_out=("component", "version")):
    """Returns the lines of a table in a terminal of that width."""
    code = (
        "import io, rich.console, pipeline.cli.output as output\n"
        "made = rich.console.Console\n"
        f"rich.console.Console = lambda: made(force_terminal=True, no_color=True, width={width})\n"
        "output.wants_json = lambda: False\n"
        f"output.table('runs', {rows!r}, '', {left_out!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return re.sub(r"\x1b\[[\d;]*m", "", done.stdout).splitlines()


def test_a_table_fits_by_leaving_columns_out_and_breaks_no_word():
    lines = shown(ROWS, 80)
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    for row in ROWS:
        assert {row["run"], row["state"], *(row["reason"] or "").split()} <= set(words)
    assert "left out, for they do not fit: component, version" in lines[-1]
    assert "ImageExampleGen" in " ".join(shown(ROWS, 140))
    assert not any("left out" in line for line in shown(ROWS, 140))


def test_empty_columns_go_first():
    lines = shown(ROWS[:1], 66)
    assert "left out, for they do not fit: component" in lines[-1]
    assert "version" in " ".join(lines[:3])


def test_what_is_in_a_cell_is_no_markup():
    assert any("[bold]x[/bold]" in line for line in shown([{"name": "[bold]x[/bold]"}], 80, ()))
