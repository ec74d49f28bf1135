import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from conveyor.errors import ConfigError
from pipeline.home.folders import Home
from pipeline.schedule import cron, export
from pipeline.schedule.cron import Cron
from pipeline.schedule.daemon import SchedulePlan
from tests.extras import environment
from tests.serving.server_process import has_mounts_of_its_own


def plan(cron="30 3 * * mon-fri", **changes):
    arguments = (
        "mnist",
        "--home",
        "/srv/conveyor",
        "--set",
        "gate.min_accuracy=0.9",
        "--data",
        "/srv/100% $new/it's",
        "--hook",
        r"tr \n x",
    )
    fields = {"experiment": "mnist", "arguments": arguments, "cron": Cron.of(cron), "timezone": "Europe/Berlin"}
    return SchedulePlan(**{**fields, "jitter": 60, **changes})


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "conveyor")


def test_crontab(home):
    here = str(cron.zone(None))
    text = export.files("crontab", plan(timezone=here), home)["conveyor-mnist.crontab"]
    *_, comment, line = text.strip().splitlines()
    assert comment == f"# Hours are in {here}, this machine's time zone: cron knows no other."
    assert "CRON_TZ" not in text  # Debian's cron takes it for a variable of the job
    fields, command = line.split(" sleep ")
    assert fields == "30 3 * * mon-fri"
    # cron hands what is behind the fields to sh, after it has taken the backslash from \%
    asked = shlex.split(command.partition("; ")[2].replace("\\%", "%"))
    assert asked[1:] == ["retrain", *plan().arguments]


@pytest.mark.parametrize("zone", ["Pacific/Chatham", "Asia/Kathmandu"])
def test_a_zone_that_cron_does_not_have_is_refused(home, zone):
    with pytest.raises(ConfigError, match=f"--timezone {zone}: cron runs by this machine's time, .*--export systemd"):
        export.files("crontab", plan(timezone=zone), home)


def test_another_name_of_the_same_time_is_not_refused(home, monkeypatch):
    monkeypatch.setattr(export, "zone", lambda name: cron.zone(name or "Etc/UTC"))
    assert export.files("crontab", plan(timezone="UTC"), home)
    monkeypatch.setattr(export, "zone", lambda name: cron.zone(name or "Europe/London"))  # the same in winter alone
    with pytest.raises(ConfigError, match="cron runs by this machine's time, Europe/London"):
        export.files("crontab", plan(timezone="UTC"), home)


NEEDS_CRON = [shutil.which(name) is None for name in ("cron", "unshare", "faketime", "mount")]


@pytest.mark.skipif(any(NEEDS_CRON) or not has_mounts_of_its_own(), reason="needs root, Debian's cron and faketime")
def test_debians_cron_runs_the_line_at_its_hour(home, tmp_path, monkeypatch):
    told = tmp_path / "told"
    program = tmp_path / "a program"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {told}.new\nmv {told}.new {told}\n')
    program.chmod(0o755)
    monkeypatch.setattr(export, "_program", lambda: str(program))
    lines = export.files("crontab", plan("30 3 * * *", timezone=str(cron.zone(None)), jitter=0), home)
    (tmp_path / "root").write_text(lines["conveyor-mnist.crontab"])
    (tmp_path / "root").chmod(0o600)
    folder = "/var/spool/cron/crontabs"
    # In folders that nobody else sees; the clock is shortly before the hour.
    script = (
        f"mount -t tmpfs none {folder} && cp {tmp_path / 'root'} {folder}/root && mount -t tmpfs none /run && "
        "mount -t tmpfs none /dev/shm && "
        "exec faketime '2026-11-25 03:29:57' cron -f"
    )
    with subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script]) as process:
        deadline = time.monotonic() + 60
        while not told.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.kill()
    assert told.read_text().splitlines() == ["retrain", *plan().arguments]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_units(home, tmp_path):
    home.root.mkdir()
    files = export.files("systemd", plan(), home)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "conveyor" in line]
    assert complaints == []
    assert done.returncode == 0
    (tmp_path / "conveyor-mnist.timer").write_text(files["conveyor-mnist.timer"].replace("03:30", "33:30"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "33:30" in done.stdout + done.stderr  # it would have said so


def test_systemd_unescapes_to_the_command(home):
    service = export.files("systemd", plan(), home)["conveyor-mnist.service"]
    line = next(line for line in service.splitlines() if line.startswith("ExecStart="))
    unescaped = line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$").replace("\\\\", "\\")
    words = shlex.split(unescaped)
    assert words[1:] == ["retrain", *plan().arguments]
    assert "SuccessExitStatus=4" in service


@pytest.mark.parametrize("kind", export.KINDS)
def test_a_line_break_is_refused(home, kind):
    arguments = ("mnist", "--hook", "true\n* * * * * touch /tmp/another-line")
    broken = plan(arguments=arguments, timezone=str(cron.zone(None)))
    with pytest.raises(ConfigError, match="holds a line break"):
        export.files(kind, broken, home)


def test_an_expression_on_two_lines_is_one(home):
    text = export.files("crontab", plan(cron="0 3 *\n* *", timezone=str(cron.zone(None))), home)[
        "conveyor-mnist.crontab"
    ]
    assert text.strip().splitlines()[-1].startswith("0 3 * * * sleep")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_folders_with_any_name(tmp_path):
    odd = Home(tmp_path / 'my 100% "home" \\n')
    odd.root.mkdir()
    files = export.files("systemd", plan(), odd, writes=(tmp_path / "my data",))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "conveyor" in line] == []


@pytest.mark.parametrize("version", ["1.27", "1.31"])
def test_kubernetes_takes_the_manifest(home, version):
    text = export.files("kubernetes", plan(), home)["conveyor-mnist.yaml"]
    manifest = yaml.safe_load(text)
    kubernetes_validate.validate(manifest, version, strict=True)
    assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
    assert manifest["spec"]["timeZone"] == "Europe/Berlin"
    broken = yaml.safe_load(text.replace("concurrencyPolicy: Forbid", "concurrencyPolicy: [Forbid]"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_the_container_finds_what_is_in_the_home_folder_in_its_place(home):
    own, data = home.root / "own.py", home.root / "my images"
    arguments = (str(own), "--home", str(home.root), "--data", str(data), "--gc")
    files = export.files("kubernetes", plan(arguments=arguments, jitter=0), home, needs=(own, data))
    (script,) = yaml.safe_load(files["conveyor-mnist.yaml"])["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ][0]["args"]
    assert ("conveyor retrain /conveyor/own.py --home /conveyor --data '/conveyor/my images' --gc & run=$!") in script


@pytest.mark.parametrize("outside", [Path("/srv/own.py"), Path("/srv/conveyor-2/images")])
def test_what_the_container_does_not_have_is_refused(home, outside):
    with pytest.raises(ConfigError, match=f"The container has the home folder alone, and not {outside}: move it into"):
        export.files("kubernetes", plan(), home, needs=(home.root / "data", outside))


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (4, 0), (3, 3), (1, 1)])
def test_the_containers_shell_takes_nothing_new_for_a_success(home, tmp_path, code, expected):
    (script,) = container(home)["args"]
    fake = tmp_path / "conveyor-program"
    fake.write_text(f"#!/bin/sh\nexit {code}\n")
    fake.chmod(0o755)
    script = script.replace("conveyor retrain", f"{fake} retrain", 1)
    assert subprocess.run(["sh", "-c", script], check=False).returncode == expected


@pytest.mark.parametrize("late", ["", "sleep 1; "], ids=["while it waits", "before it knows the process"])
def test_the_containers_shell_hands_a_stop_signal_on(home, tmp_path, late):
    fake = tmp_path / "conveyor-program"
    fake.write_text("#!/bin/sh\ntrap 'echo checkpoint; exit 130' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    fake.chmod(0o755)
    (script,) = container(home)["args"]
    script = script.replace("conveyor retrain", f"{fake} retrain", 1).replace("& run=$!", f"& {late}run=$!")
    command = ["sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        try:
            out, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert (out, process.returncode) == ("checkpoint\n", 130)


def container(home):
    text = export.files("kubernetes", plan(jitter=0), home)["conveyor-mnist.yaml"]
    return yaml.safe_load(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("kind", ["crontab", "kubernetes"])
def test_seconds_are_refused_where_nobody_knows_them(home, kind):
    with pytest.raises(ConfigError, match=f"{kind} knows no seconds"):
        export.files(kind, plan("*/10 * * * * *"), home)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """Airflow in an environment of its own, with SQLite."""
    folder = tmp_path_factory.mktemp("airflow")
    python = environment(folder / "environment", "airflow")
    own = {
        **os.environ,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    subprocess.run([python, "-m", "airflow", "db", "migrate"], env=own, check=True, capture_output=True)
    (folder / "dags").mkdir()

    def run(text):
        """Returns the state of a DAG's one task, and what was logged."""
        (folder / "dags" / "dag.py").write_text(text)
        command = [python, "-m", "airflow", "dags", "test", "conveyor-mnist", "2026-01-01"]
        done = subprocess.run(list(map(str, command)), env=own, capture_output=True, text=True, check=False)
        out = done.stdout + done.stderr
        return re.findall(r"Marking task as (\w+)", out), out

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "answer", "state", "said"),
    [
        (4, {"verdict": "nothing new"}, "SKIPPED", "There is nothing new."),
        (3, {"reasons": ["accuracy 0.1 is below 0.9"]}, "FAILED", "The model was rejected: accuracy 0.1 is below 0.9"),
        (-9, None, "FAILED", "conveyor ended with -9; the log above says why."),
    ],
)
def test_airflow_shows_how_a_run_ended(airflow, home, monkeypatch, tmp_path, code, answer, state, said):
    stub = tmp_path / "conveyor"
    ends = "kill -9 $$" if code < 0 else f"exit {code}"
    stub.write_text(f"#!/bin/sh\necho 'as it runs' >&2\nprintf %s '{json.dumps(answer) if answer else ''}'\n{ends}\n")
    stub.chmod(0o755)
    monkeypatch.setattr(export, "_program", lambda: str(stub))
    (text,) = export.files("airflow", plan(), home).values()
    states, out = airflow(text)
    assert states == [state], out
    assert said in out
    assert "as it runs" in out
