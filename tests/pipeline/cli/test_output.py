import json
import subprocess
import sys
from pathlib import Path

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
    reply_now({"ready": True})
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


def test_a_usage_error_of_the_verb_is_a_reply_too():
    done = run("raise click.UsageError('not both')", "--json")
    assert done.returncode == 2
    assert last(done) == {"verdict": "failed", "error": "not both"}
    assert "Usage" in done.stderr
