"""`conveyor schedule`: retrains when a cron expression says so, one run at a time, and remembers what it did.

Each run is a process of its own, `conveyor retrain`, which ends with this one. The state is a file, written whole
before and after each run: a scheduler that was killed knows on its next start that a run was cut off, or that its
time has come and gone meanwhile, and runs once, at once.
"""

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
from apscheduler.events import EVENT_JOB_MAX_INSTANCES
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from conveyor.errors import ConveyorError, storage_errors
from conveyor.files import replace_file
from pipeline.home.folders import Home
from pipeline.home.outcome import Verdict
from pipeline.schedule.cron import Cron, zone
from pipeline.schedule.notify import Notifier

REMEMBERED = 100  # runs in the state file
ROOT = Path(__file__).resolve().parents[2]

logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a time that passes while a run lasts is no news


class AlreadyScheduled(ConveyorError):
    """Another process schedules this experiment in this home folder."""


@dataclasses.dataclass(frozen=True)
class SchedulePlan:
    """What is run, and when.

    Attributes:
      experiment: the experiment's name.
      arguments: of `conveyor retrain`: the experiment, settings, folders; nothing secret.
      cron: when.
      timezone: what its hours are in, such as Europe/Berlin.
      jitter: seconds that each time is moved by at most.
    """

    experiment: str
    arguments: tuple[str, ...]
    cron: Cron
    timezone: str
    jitter: int = 0


@dataclasses.dataclass
class State:
    """What survives the scheduler.

    Attributes:
      experiment: the experiment's name.
      cron: the expression.
      timezone: its time zone.
      jitter: seconds.
      process: the scheduler's process; whether it lives, its lock says.
      next: when the next run is due, ISO 8601; None before the first start.
      running: when the run in progress began; None where none is.
      runs: what was run: `started`, `ended`, `verdict`, `exit_code`, and more of a run that came to a verdict.
    """

    experiment: str
    cron: str
    timezone: str
    jitter: int
    process: int | None = None
    next: str | None = None
    running: str | None = None
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def cut_off(self) -> bool:
        """Whether the last run did not come to an end."""
        return self.running is not None or bool(self.runs and self.runs[-1]["verdict"] == Verdict.STOPPED)


class Scheduler:
    """Runs a plan until it is stopped."""

    def __init__(
        self,
        home: Home,
        plan: SchedulePlan,
        notifier: Notifier,
        say: Callable[[str], Any],
        tell: Callable[[dict[str, Any]], Any] = lambda _: None,
    ) -> None:
        """Makes a scheduler.

        Args:
          home: where everything goes.
          plan: what is run, and when.
          notifier: sends how a run ended.
          say: prints a line.
          tell: is given what is known of each run when it has ended, for scripts.
        """
        self._home, self._plan, self._notifier, self._print, self._tell = home, plan, notifier, say, tell
        self._path = home.schedules / f"{plan.experiment}.json"
        self._state = read(self._path) or State(plan.experiment, "", "", 0)
        self._stopped = threading.Event()
        self._missed = threading.Event()
        self._child: subprocess.Popen | None = None

    def serve(self, now: bool) -> None:
        """Runs until SIGTERM or SIGINT; a run in progress then finishes its component, or writes a checkpoint.

        Args:
          now: whether the first run is due at once.

        Raises:
          AlreadyScheduled: another process does this already.
        """
        with storage_errors(f"The folder of schedules {self._path.parent} cannot be made"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self._path.with_suffix(".lock"), timeout=0):
                self._serve(now)
        except filelock.Timeout:
            raise AlreadyScheduled(
                f"Process {self._state.process} schedules {self._plan.experiment} in {self._home.root} already."
            ) from None

    def _serve(self, now: bool) -> None:
        why = self._due(now)
        plan, state = self._plan, self._state
        state.cron, state.timezone, state.jitter = plan.cron.text, plan.timezone, plan.jitter
        state.process, state.running = os.getpid(), None
        scheduler = BackgroundScheduler(timezone=plan.timezone, executors={"default": ThreadPoolExecutor(1)})
        scheduler.add_listener(lambda _: self._missed.set(), EVENT_JOB_MAX_INSTANCES)
        first = {"next_run_time": datetime.datetime.now(datetime.timezone.utc)} if why else {}
        trigger = plan.cron.trigger(zone(plan.timezone), plan.jitter)
        # Ticks that come while a run lasts, or while the machine sleeps, make one run together.
        job = scheduler.add_job(self._tick, trigger, coalesce=True, max_instances=1, misfire_grace_time=None, **first)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        scheduler.start()
        self._remember(job.next_run_time)
        self._say(why or f"the first run is at {self._clock(job.next_run_time)}")
        while not self._stopped.wait(0.2):
            current = scheduler.get_job(job.id)
            self._remember(current.next_run_time if current else None)
        scheduler.shutdown(wait=True)  # the run in progress was told to stop, and is waited for
        self._state.process = None
        self._write()
        self._say("stopped")

    def _due(self, now: bool) -> str:
        """Returns why a run is due at once; empty where it is not."""
        state = self._state
        if now:
            return "the first run is now"
        if state.cut_off:
            return "the last run was cut off; it continues now"
        if state.next and datetime.datetime.fromisoformat(state.next) < datetime.datetime.now(datetime.timezone.utc):
            return f"the run of {state.next} was missed; it is made up for now"
        return ""

    def _tick(self) -> None:
        while not self._stopped.is_set():
            self._missed.clear()
            self._run()
            if not self._missed.is_set():
                return

    def _run(self) -> None:
        """Runs once, remembers how it ended, and tells of it."""
        started = self._state.running = _now()
        self._write()
        self._say("a run begins")
        try:
            outcome = self._outcome(*self._retrain())
        except OSError as error:
            outcome = {
                "verdict": Verdict.FAILED.value,
                "error": f"the run could not be started: {error}",
                "exit_code": None,
            }
        ended = {"started": started, "ended": _now(), **outcome}
        self._state.runs = [*self._state.runs, ended][-REMEMBERED:]
        self._state.running = None
        self._write()
        due = self._state.next  # APScheduler itself must not be asked here: it waits for this thread when it stops
        following = f"; the next run is at {self._clock(datetime.datetime.fromisoformat(due))}" if due else ""
        self._say(f"{_sentence(outcome)}{'' if self._stopped.is_set() else following}")
        for problem in self._notifier.tell({"experiment": self._plan.experiment, **outcome}):
            self._say(problem)
        self._tell({"experiment": self._plan.experiment, **ended, "next": due})

    def _retrain(self) -> tuple[int, str]:
        """Returns the exit code of `conveyor retrain`, and what it printed on standard output."""
        words = ("retrain", *self._plan.arguments, "--json", "--end-with-parent")
        # This process tells how it ended, also of a run that died.
        environment = {name: value for name, value in os.environ.items() if name != "CONVEYOR_NOTIFY"}
        with subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *words],
            cwd=ROOT,  # a folder named pipeline where the user happens to be is not ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl+C is for this process, which hands it on
        ) as child:
            self._child = child
            if self._stopped.is_set():
                child.terminate()
            assert child.stdout is not None  # it is a pipe
            printed = child.stdout.read()
        self._child = None
        return child.returncode, printed

    def _outcome(self, code: int, printed: str) -> dict[str, Any]:
        try:
            outcome = json.loads(printed)
        except ValueError:
            outcome = {"error": f"the run ended with {code} and without a word; its log is in {self._home.logs}"}
        verdict = Verdict.of_exit_code(code)
        if verdict in (Verdict.FAILED, Verdict.STOPPED):
            verdict = Verdict.STOPPED if self._stopped.is_set() else Verdict.FAILED
        return {**outcome, "verdict": verdict.value, "exit_code": code}

    def _stop(self) -> None:
        """Lets the run in progress stop well; a second signal ends it at once."""
        if self._child is not None:
            self._child.kill() if self._stopped.is_set() else self._child.terminate()
        self._stopped.set()

    def _say(self, text: str) -> None:
        """Prints a line with the time and the experiment."""
        self._print(f"{self._clock(datetime.datetime.now(datetime.timezone.utc))}  {self._plan.experiment}: {text}")

    def _clock(self, moment: datetime.datetime) -> str:
        return f"{moment.astimezone(zone(self._plan.timezone)):%Y-%m-%d %H:%M:%S %Z}"

    def _remember(self, due: datetime.datetime | None) -> None:
        text = due.astimezone(datetime.timezone.utc).isoformat(timespec="seconds") if due else None
        if text != self._state.next:
            self._state.next = text
            self._write()

    def _write(self) -> None:
        try:
            with _WRITING:
                replace_file(self._path, json.dumps(dataclasses.asdict(self._state), indent=1))
        except OSError as error:  # a full disk is no reason to stop
            self._say(f"the state could not be written: {error}")


def _sentence(outcome: dict[str, Any]) -> str:
    """Returns how a run ended, in a line."""
    run = f", run {outcome['run']}" if outcome.get("run") else ""
    version = f", version {outcome['version']} ({outcome['label']})" if outcome.get("label") else ""
    accuracy = f", accuracy {100 * outcome['accuracy']:.2f} %" if outcome.get("accuracy") is not None else ""
    why = "; ".join(outcome.get("reasons") or ()) or str(outcome.get("error") or "").partition("\n")[0]
    because = f", because {why}" if why else ""
    return f"{outcome['verdict']}{run}{version}{accuracy}{because}, exit code {outcome['exit_code']}"


_WRITING = threading.Lock()


def read(path: Path) -> State | None:
    """Returns the state in a file; None where there is no file, or none of ours."""
    try:
        return State(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def rows(home: Home) -> list[dict[str, Any]]:
    """Returns what `conveyor schedule --list` shows of each schedule."""
    found = []
    for path in sorted(home.schedules.glob("*.json")):
        state = read(path)
        if state is None:
            continue
        alive = _is_locked(path.with_suffix(".lock"))
        last = state.runs[-1] if state.runs else {}
        found.append(
            {
                "experiment": state.experiment,
                "cron": state.cron,
                "timezone": state.timezone,
                "state": "stopped" if not alive else "running" if state.running else "waiting",
                "process": state.process if alive else None,
                "next": state.next if alive else None,
                "last": last.get("started"),
                "verdict": last.get("verdict"),
                "exit_code": last.get("exit_code"),
                "runs": len(state.runs),
            }
        )
    return found


def _is_locked(path: Path) -> bool:
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(path, timeout=0):
        return False
    return True


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
