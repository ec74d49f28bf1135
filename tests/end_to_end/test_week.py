"""A week of a growing data set: a scheduler, a server, and clients that never pause, on real digits.

The picture of it in the README is made by this test: CONVEYOR_WEEK_PICTURE=docs/week.png makes it write it there.
"""

import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from serving.client import Client, ServingError
from tests.digits import read_idx, write_idx
from tests.end_to_end.conftest import Conveyor
from tests.end_to_end.test_serve import Serving
from tests.serving.server_process import eventually

SETTINGS = (
    "training.warm_steps=20", "training.precision=float32", "spans.holdout_share=0.1", "gate.tolerance=0",
    "drift.label=0.15",
)  # fmt: skip
TICK = 8  # seconds
HOOK = "import os, sys; open(sys.argv[1], 'a').write(os.environ['CONVEYOR_VERDICT'] + chr(10))"


class Clients:
    """Ask without a pause, one for the label stable and one without a label, and write every answer down."""

    def __init__(self, target: str, image: np.ndarray) -> None:
        self.answers: dict[str, list[tuple[float, int]]] = {"stable": [], "newest": []}
        self.failures: list[tuple[float, str]] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(Client(target, "digits", label=label, retries=0), image, name))
            for name, label in (("stable", "stable"), ("newest", None))
        ]

    def _ask(self, client: Client, image: np.ndarray, name: str) -> None:
        while not self._stopped.is_set():
            try:
                self.answers[name].append((time.time(), client.predict(image).version))
            except ServingError as error:
                self.failures.append((time.time(), str(error)))
            time.sleep(0.02)  # two cores train, serve and test
        client.close()

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


class Week:
    """What happens on each day, and when."""

    def __init__(self, conveyor: Conveyor) -> None:
        self.conveyor = conveyor
        self.state = conveyor.home / "schedules" / "digits.json"
        self.days: list[tuple[float, str]] = []

    def runs(self) -> list[dict]:
        return json.loads(self.state.read_text())["runs"] if self.state.exists() else []

    def day(self, what: str, folder: Path | None = None) -> tuple[int, str]:
        """Adds what arrives, and waits until the schedule has had a whole look at it."""
        self.days.append((time.time(), what))
        added = self.conveyor.add(folder) if folder else (0, "")
        known = len(self.runs())
        if added[0] == 0 and folder:
            eventually(lambda: any(run["verdict"] != "nothing new" for run in self.runs()[known:]), 200)
        else:
            eventually(lambda: len(self.runs()) >= known + 2, 60)  # one may have begun before
        return added


def test_a_week(pushed, days, tmp_path):
    images, labels = read_idx(days[2], "new", 300)
    write_idx(tmp_path / "skewed", "new", images[labels < 3], labels[labels < 3])
    shutil.copytree(days[3], tmp_path / "corrupt")
    file = tmp_path / "corrupt" / "new-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:100_000])
    told = tmp_path / "told"
    schedule = [
        "schedule", pushed.experiment, "--cron", f"*/{TICK} * * * * *", "--data", pushed.data,
        "--hook", f'{sys.executable} -c "{HOOK}" {told}',
        *[part for setting in SETTINGS for part in ("--set", setting)],
    ]  # fmt: skip
    week = Week(pushed)
    with (
        Serving(pushed.home, "--backend=embedded") as serving,
        Clients(serving.target, images[:1, ..., np.newaxis]) as clients,
        pushed.start(*schedule) as scheduler,
    ):
        assert week.day("Monday:\n300 digits", days[0])[0] == 0
        assert week.day("Tuesday:\n300 digits", days[1])[0] == 0
        assert week.day("Wednesday:\n0, 1 and 2 alone", tmp_path / "skewed")[0] == 0
        code, out = week.day("Thursday: a cut-off\nfile is refused", tmp_path / "corrupt")
        assert code == 1
        assert f"{file} at byte 100000: expected 235216 bytes" in out
        week.day("Friday: nothing\nnew, skipped")
        assert week.day("Saturday:\n300 digits", days[5])[0] == 0
        assert week.day("Sunday:\n300 digits", days[6])[0] == 0
        ended = time.time()
        scheduler.send_signal(signal.SIGTERM)
        said = scheduler.stdout.read()
        best = pushed.labels()["stable"]
        eventually(lambda: clients.answers["newest"][-1][1] == clients.answers["stable"][-1][1] == best)
    assert scheduler.returncode == 0, said

    runs = week.runs()
    if runs[-1]["verdict"] == "stopped":  # a tick had begun when the signal came
        runs.pop()
    draw(week, runs, clients, pushed.reports(), ended, tmp_path / "week.png")
    assert clients.failures == []
    assert sum(map(len, clients.answers.values())) > 1000
    for answers in clients.answers.values():
        versions = [version for _, version in answers]
        assert versions == sorted(versions)
        assert versions[-1] == best

    # One run at a time, and the times that passed meanwhile made one run together.
    assert all(before["ended"] <= after["started"] for before, after in itertools.pairwise(runs))
    assert len(runs) < (ended - week.days[0][0]) / TICK
    verdicts = [run["verdict"] for run in runs if run["verdict"] != "nothing new"]
    assert len(verdicts) == 5  # Thursday and Friday brought nothing to train on
    assert set(verdicts) <= {"pushed", "rejected"}
    assert verdicts.count("pushed") >= 2
    drifts = [run["drift"] for run in runs if run["verdict"] != "nothing new"]
    assert any("label: L-infinity distance" in sentence for sentence in drifts[2])
    assert not any("label" in sentence for drift in (drifts[0], drifts[1]) for sentence in drift)
    blessed = {r["outcome"]["version"]: r["outcome"]["accuracy"] for r in pushed.reports() if r["outcome"]["version"]}
    assert blessed[best] == max(blessed.values())
    accuracies = [blessed[version] for version in sorted(blessed)]
    assert accuracies == sorted(accuracies)
    assert told.read_text().splitlines() == [run["verdict"] for run in runs]
    assert not any("running" in states.values() for states in pushed.states())
    assert sorted(path.name for path in pushed.data.glob("span-*")) == [f"span-{number}" for number in range(1, 6)]


def draw(week: Week, runs: list[dict], clients: Clients, reports: list[dict], ended: float, path: Path) -> None:
    """Draws the days, the runs and their verdicts, the version that answers, and the requests a second."""
    import datetime

    def seconds(text: str) -> float:
        return datetime.datetime.fromisoformat(text).timestamp() - zero

    zero = week.days[0][0]
    figure = Figure(figsize=(11, 6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1.3))
    colors = {"pushed": "#15803d", "rejected": "#b45309", "failed": "#b91c1c", "nothing new": "#9aa5b1"}
    first = reports[0]["outcome"]["accuracy"]
    top.axhline(100 * first, color="#9aa5b1", linewidth=0.8, linestyle=":")
    for run in runs:
        begin, end = seconds(run["started"]), seconds(run["ended"])
        top.axvspan(begin, end, color=colors[run["verdict"]], alpha=0.12, linewidth=0)
        if run["verdict"] in ("pushed", "rejected"):
            label = f"version {run['version']}" if run["verdict"] == "pushed" else "rejected"
            if run["drift"]:
                label += "\ndrift reported"
            top.plot(end, 100 * run["accuracy"], "o", color=colors[run["verdict"]])
            note = {"textcoords": "offset points", "xytext": (-6, -6), "ha": "right", "va": "top", "fontsize": 8}
            top.annotate(label, (end, 100 * run["accuracy"]), **note)
    top.set(ylabel="test accuracy, %")
    top.margins(y=0.35)
    for name, answers in clients.answers.items():
        times = [at - zero for at, _ in answers]
        style = {"linewidth": 3, "alpha": 0.5} if name == "stable" else {"linewidth": 1, "linestyle": "--"}
        label = "label stable" if name == "stable" else "no label"
        middle.step(times, [version for _, version in answers], where="post", label=f"asked with {label}", **style)
    middle.set(ylabel="version that answers", yticks=range(1, 1 + max(v for _, v in clients.answers["stable"])))
    middle.legend(frameon=False, loc="upper left")
    for axes in (top, middle, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        for at, _ in week.days:
            axes.axvline(at - zero, color="#9aa5b1", linewidth=0.8)
    row, right = 0, 0.0
    for at, what in week.days:
        row = row + 1 if at - zero < right else 0
        right = at - zero + 0.1 * (ended - zero)
        place = {"xycoords": ("data", "axes fraction"), "fontsize": 8, "va": "bottom"}
        top.annotate(what, (at - zero, 1.02 + 0.14 * row), **place)
    times = np.array([at - zero for answers in clients.answers.values() for at, _ in answers])
    edges = np.arange(0, ended - zero, 2)
    bottom.stairs(np.histogram(times, edges)[0] / 2, edges, fill=True, color="#2f6f9f", alpha=0.5)
    bottom.set(xlabel="seconds", ylabel="requests/s", xlim=(-2, ended - zero + 2))
    count = len(times) + len(clients.failures)
    bottom.set_title(f"{len(clients.failures)} of {count:,} requests failed", fontsize=9, loc="left")
    figure.savefig(path, dpi=110)
    if wanted := os.environ.get("CONVEYOR_WEEK_PICTURE"):
        shutil.copyfile(path, wanted)
