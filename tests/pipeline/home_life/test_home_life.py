import contextlib
import datetime
import itertools
import json
import os
import re
import shutil
import sqlite3
import tempfile
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ml_metadata.proto.metadata_store_pb2 import Artifact, Execution

from conveyor.errors import ConfigError, ExitCode
from pipeline.cli.main import main
from pipeline.data import add
from pipeline.experiments import load
from pipeline.experiments.overrides import override
from pipeline.home import backup, lineage, listing, metadata_store
from pipeline.home.folders import Home
from pipeline.home.outcome import Verdict
from pipeline.release import rollout, serve
from pipeline.release.server_files import labelled
from pipeline.run import plan
from serving.model_store import Labels, StoredModel
from tests.pipeline.home_life import stub_training
from tests.pipeline.home_life.death import Died, dying_before
from tests.pipeline.home_life.stub_server import StubServer

pytestmark = pytest.mark.slow

EXPERIMENTS = ("dots", "dashes")
NAMES, SEEDS = st.sampled_from(EXPERIMENTS), st.integers(0, 3)
KEPT = st.integers(2, 3)  # another number makes no other model: everything comes from the cache
KEPT_BY_NOBODY = 4
ACCIDENTS = ("clock", "move", "missing", "empty", "no tables", "overwritten")  # the latter happen to the metadata
EXPERIMENT = """\
import dataclasses
from conveyor import Dataset, Gate, NamedSplits, Serving, load_experiment

MNIST = load_experiment("mnist")
EXPERIMENT = dataclasses.replace(
    MNIST,
    name="{name}",
    training=dataclasses.replace(MNIST.training, batch_size=1),
    dataset=Dataset("{name}", "folders", (4, 4, 1), ("a", "b"), NamedSplits("train/*/*", "test/*/*")),
    gate=Gate(min_accuracy=0.5, tolerance=0.3),
    serving=Serving("{name}"),
)
"""
STEPS_OF_A_SERVER = 6  # more than any change of the labels takes


class Server:
    """A `conveyor serve` that runs, with a server that obeys its files."""

    def __init__(self, home: Home, settings: serve.ServerSettings) -> None:
        self._files = contextlib.ExitStack()
        prepared = self._files.enter_context(serve.written(home, settings))
        self.target, self.followed = settings.target, prepared.record.followed
        self.stub = StubServer(prepared.folder.path)
        for _ in range(2):  # it answers to labels when everything is loaded
            self.stub.read()
            self.stub.load_and_unload()
        self._rollout = rollout.Rollout(
            home, prepared.folder.path, settings.target, self.followed, prepared.served, print
        )

    def step(self, may_fail: bool = False) -> None:
        self._rollout.step()
        for change in (self.stub.read, self.stub.load_and_unload):
            change()
            for model in self.followed:
                assert may_fail or self.stub.answering(model, "stable"), "requests for the stable version fail"

    def stop(self) -> None:
        self._files.close()


def executions(database: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT id, last_known_state FROM Execution ORDER BY id").fetchall()


def draw_death() -> st.SearchStrategy[int | None]:
    """Draws the write before which a command's process dies; of most commands, None."""
    return st.one_of(st.none(), st.none(), st.integers(1, 250))


class HomeLife(RuleBasedStateMachine):
    """What people, clocks and accidents do to a home folder with two experiments, and what must hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._home, self._data, self._batch = Home(root / "home"), root / "data", root / "batch"
        self._pictures = np.random.default_rng(0)
        for split in ("train", "test"):
            self._draw(self._data / split, 2)
        self._files = {name: root / f"{name}.py" for name in EXPERIMENTS}
        for name, path in self._files.items():
            path.write_text(EXPERIMENT.format(name=name))
        self._removed: set[str] = set()  # the names of the spans in the bin
        self._servers: list[Server] = []
        self._withdrawn: dict[str, set[str]] = {name: set() for name in EXPERIMENTS}
        self._rejected: dict[str, tuple[int, int, bool]] = {}  # seed, versions kept, canary of the last one
        self._pushed: dict[tuple[str, int], str] = {}  # the text of every version that there ever was
        self._there: dict[str, set[int]] = {name: set() for name in EXPERIMENTS}  # the versions that must be there
        # What the metadata may not know: versions whose push died or is later than a copy that was restored, whether a
        # run was left running, and artifacts that were removed.
        self._without_lineage: set[tuple[str, int]] = set()
        self._left_running = False
        self._missing: set[str] = set()
        self._left_behind: set[str] = set()  # outputs of whose folders the metadata have the names before a move
        self._clock = datetime.timedelta()
        for module in (plan, backup, add):
            self._stack.enter_context(mock.patch.object(module, "datetime", self._datetime()))
        self._stack.enter_context(mock.patch("pipeline.run.graph.create_pipeline", stub_training.create_pipeline))
        self._stack.enter_context(mock.patch.object(rollout, "answering", self._answering))
        clock = mock.Mock(monotonic=itertools.count().__next__, sleep=self._tick)
        self._stack.enter_context(mock.patch.object(rollout, "time", clock))

    def teardown(self) -> None:
        for server in self._servers:
            server.stop()
        self._stack.close()

    # What happens.

    @rule(name=NAMES, seed=SEEDS, keep=KEPT, canary=st.booleans(), death=draw_death())
    def run(self, name: str, seed: int, keep: int, canary: bool, death: int | None) -> None:
        self._train("run", name, seed, keep, canary, death)

    @rule(name=NAMES, seed=SEEDS, keep=KEPT, canary=st.booleans(), death=draw_death())
    def retrain(self, name: str, seed: int, keep: int, canary: bool, death: int | None) -> None:
        self._train("retrain", name, seed, keep, canary, death)

    def _train(self, verb: str, name: str, seed: int, keep: int, canary: bool, death: int | None) -> None:
        before, versions = self._model(name).labels(), self._model(name).versions()
        copies = backup.copies(self._home)
        settings = (f"training.seed={seed}", f"serving.keep_versions={keep}", f"serving.canary={json.dumps(canary)}")
        planned = plan.make_plan(override(load(str(self._files[name])), settings), self._home, self._data)
        text = stub_training.text_of(planned)
        more = [word for setting in settings for word in ("--set", setting)]
        code, told = self._conveyor(death, verb, str(self._files[name]), "--data", str(self._data), *more)
        after = self._model(name).labels()
        new = set(self._model(name).versions()) - set(versions)
        if code is None:
            self._left_running = True
            self._without_lineage |= {(name, version) for version in new}
            assert after.stable == before.stable or self._text(name, after.stable) == text
            assert {self._text(name, version) for version in new} <= {text}
            return
        verdict = Verdict(told["verdict"])
        assert code == verdict.exit_code
        has_run = verdict not in (Verdict.NOTHING_NEW, Verdict.UP_TO_DATE)
        self._left_running &= not has_run
        if has_run and copies:
            assert backup.copies(self._home)[:-1] == copies[-2:], "a copy more, and the newest stay"
        if verdict is Verdict.PUSHED:
            self._check_push(name, text, told, canary, before)
            return
        assert after == before
        if verdict is Verdict.FAILED:
            assert seed == stub_training.FAILING_SEED, told
        elif told["version"] is not None:  # there was nothing new
            assert told["version"] in versions
            assert self._text(name, told["version"]) == text
            assert told["label"] in (after.of_version(told["version"]) or [None])
        else:  # rejected now, or when there was something new
            assert verdict in (Verdict.REJECTED, Verdict.NOTHING_NEW)
            self._rejected[name] = (seed, keep, canary)
            refused = stub_training.correct(text) < stub_training.least_correct(planned)
            assert refused or text in self._withdrawn[name]

    def _check_push(self, name: str, text: str, told: Any, canary: bool, before: Labels) -> None:
        version, after = told["version"], self._model(name).labels()
        assert self._text(name, version) == text
        assert text not in self._withdrawn[name], "what a person took back got a label"
        assert told["label"] in after.of_version(version)
        if canary and before.stable not in (None, version):
            assert (after.stable, after.canary) == (before.stable, version)
        else:
            assert after.stable == version
            assert after.previous == (before.previous if before.stable == version else before.stable)

    @rule(death=draw_death())
    def add(self, death: int | None) -> None:
        shutil.rmtree(self._batch, ignore_errors=True)
        self._draw(self._batch, 1)
        before = self._spans()
        code, told = self._conveyor(death, "add", str(self._files["dots"]), str(self._batch), "--data", str(self._data))
        if code is None:
            assert len(self._spans()) - len(before) in (0, 1)
            return
        assert code == ExitCode.SUCCESS, told
        assert self._spans() - before == {told["span"]}
        assert told["span"] not in self._removed, "a name was given twice"

    @precondition(lambda self: self._spans())
    @rule(data=st.data(), by_hand=st.booleans(), death=draw_death())
    def remove(self, data: st.DataObject, by_hand: bool, death: int | None) -> None:
        before = self._spans()
        span = data.draw(st.sampled_from(sorted(before)))
        if by_hand:
            shutil.rmtree(self._data / span)
            return
        folder = ("--data", str(self._data))
        code, told = self._conveyor(death, "remove", str(self._files["dots"]), span, *folder)
        assert code in (None, ExitCode.SUCCESS), told
        assert before - self._spans() == {span} or (code is None and before == self._spans())
        self._removed |= before - self._spans()

    @rule(name=NAMES, death=draw_death(), again=st.booleans(), data=st.data())
    def roll_back(self, name: str, death: int | None, again: bool, data: st.DataObject) -> None:
        model = self._model(name)
        before, there = model.labels(), model.versions()
        to = data.draw(st.one_of(st.none(), st.sampled_from(there))) if there else None
        code, told = self._conveyor(death, "rollback", name, *(("--to", str(to)) if to else ()))
        after = model.labels()
        if code is None:
            assert after.stable == before.stable or after.canary is None
        elif code == ExitCode.SUCCESS:
            assert told["after"] == after.stable
            assert after.canary is None
            assert to in (None, after.stable)
        else:
            assert code == ExitCode.USAGE, told
            assert after == before
            return
        if after.stable != before.stable:
            back, now = self._text(name, before.stable), self._text(name, after.stable)
            goes_back = after.stable < before.stable or (to is None and now not in self._withdrawn[name])
            self._withdrawn[name] |= {back} if goes_back else set()
            self._withdrawn[name].discard(now)
            if again and name in self._rejected:  # perhaps it is good enough for what is stable now
                self._train("retrain", name, *self._rejected[name], None)
            if again:  # a change of what does not matter to the model brings it from the cache
                self._train("run", name, json.loads(back)["seed"], KEPT_BY_NOBODY, False, None)

    @rule(name=NAMES, death=draw_death())
    def promote(self, name: str, death: int | None) -> None:
        before = self._model(name).labels()
        code, told = self._conveyor(death, "promote", str(self._files[name]))
        after = self._model(name).labels()
        if after == before:
            assert code in (None, ExitCode.USAGE), told
            assert code is None or before.canary is None
            return
        assert code in (None, ExitCode.SUCCESS), told
        assert (after.stable, after.canary, after.previous) == (before.canary, None, before.stable)
        self._withdrawn[name].discard(self._text(name, after.stable))

    @rule(keep=st.integers(1, 3), name=st.sampled_from([None, *EXPERIMENTS]), death=draw_death())
    def collect(self, keep: int, name: str | None, death: int | None) -> None:
        before = {model: self._model(model).versions() for model in EXPERIMENTS}
        labels = {model: self._model(model).labels() for model in EXPERIMENTS}
        code, told = self._conveyor(death, "gc", *((name,) if name else ()), "--keep", str(keep), "--yes")
        if code == ExitCode.USAGE:
            assert name is not None
            assert not before[name]
        else:
            assert code in (None, ExitCode.SUCCESS), told
        if code is None:
            self._missing |= self._without_folder()
        if code == ExitCode.SUCCESS:
            assert not [row for row in told["folders"] if Path(row["path"]).exists()]
            self._check_that_the_needed_is_there_and_nothing_else(name)
        for model in EXPERIMENTS:
            assert self._model(model).labels() == labels[model]
            stays = {*before[model][-keep:], *(v for v in before[model] if labels[model].of_version(v))}
            stays |= {version for server in self._servers for version in server.stub.answering(model, None)}
            stays |= set() if name in (None, model) else set(before[model])
            there = set(self._model(model).versions())
            assert stays & set(before[model]) <= there
            assert code != ExitCode.SUCCESS or there <= stays
            self._there[model] &= there

    def _check_that_the_needed_is_there_and_nothing_else(self, name: str | None) -> None:
        """Looks whether the outputs are those of runs whose versions are there, of last runs, and of last verdicts."""
        if not self._home.has_metadata:
            return
        runs = metadata_store.runs(metadata_store.connect(self._home))
        wanted = {
            record.run for n in EXPERIMENTS for v in self._model(n).versions() if (record := self._model(n).record(v))
        }
        for experiment in EXPERIMENTS:
            own = [run for run in runs if run.experiment == experiment]
            wanted |= {run.id for run in own[-1:] + [run for run in own if run.state.is_verdict][-1:]}
        outputs = [a for run in runs if run.id in wanted for c in run.components for a in c.outputs.values()]
        needed = {artifact.uri.rpartition("/artifacts/")[2] for artifact in outputs}
        there = {str(path.relative_to(self._home.artifacts)) for path in self._home.outputs()}
        lost = {uri.rpartition("/artifacts/")[2] for uri in self._missing}
        assert {path for path in there - needed if path.startswith(f"{name or ''}")} <= set()
        assert {path for path in needed if "/Baseline/" not in path} <= there | lost | self._left_behind

    @rule(name=NAMES, data=st.data())
    def delete_a_version_by_hand(self, name: str, data: st.DataObject) -> None:
        there = self._model(name).versions()
        if len(there) > 1:
            version = data.draw(st.sampled_from([*there, there[-1], there[-1]]))  # the newest above all
            shutil.rmtree(self._model(name).path(version))
            self._there[name].discard(version)
            for server in self._servers:  # it cannot serve on with what is gone
                server.step(may_fail=True)

    @precondition(lambda self: backup.copies(self._home))
    @rule(death=draw_death())
    def restore_the_metadata(self, death: int | None) -> None:
        code, told = self._conveyor(death, "doctor", "--restore-metadata")
        if not self._home.database.exists():  # it died on the way; every command says to do it again
            assert code is None
            code, told = self._conveyor(None, "doctor", "--restore-metadata")
        assert code in (None, ExitCode.SUCCESS, ExitCode.FAILED), told  # the latter: a full disk, or the like
        if code is not None:
            assert executions(self._home.database) == executions(backup.copies(self._home)[-1])
        self._returned_to_a_copy()

    def _returned_to_a_copy(self) -> None:
        """Notes what the copy does not know: it may be older than the last push, and than what was removed."""
        self._left_running = True
        self._missing |= self._without_folder()
        store = metadata_store.connect(self._home)
        for name in EXPERIMENTS:
            for version in self._model(name).versions():
                try:
                    lineage.of_version(store, name, version)
                except ConfigError:
                    self._without_lineage.add((name, version))

    @rule(accident=st.sampled_from(ACCIDENTS), command=st.sampled_from(["run", "gc"]), days=st.integers(-40, 40))
    def have_an_accident(self, accident: str, command: str, days: int) -> None:
        if accident == "clock":
            self._clock = datetime.timedelta(days=days)
        elif accident == "move":
            self._move_the_home()
        elif backup.copies(self._home) and self._home.outputs():
            self._damage_the_metadata(accident, command)

    def _damage_the_metadata(self, damage: str, command: str) -> None:
        """Whatever is wrong with the file, no command goes on without it, and a copy brings it back."""
        if damage == "overwritten":
            self._home.database.write_bytes(b"no database" * 1000)
        else:
            self._home.database.unlink()
        if damage == "empty":
            self._home.database.touch()
        if damage == "no tables":
            with contextlib.closing(sqlite3.connect(self._home.database)) as connection:
                connection.executescript("CREATE TABLE t (x); DROP TABLE t")
        before = self._all_files()
        arguments = (str(self._files["dots"]), "--data", str(self._data), "--set", "training.seed=99")
        code, _ = self._conveyor(None, "runs")
        assert code == ExitCode.FAILED
        code, told = self._conveyor(None, command, *(arguments if command == "run" else ("--keep", "1", "--yes")))
        assert (code, before) == (ExitCode.FAILED, self._all_files()), told
        code, told = self._conveyor(None, "doctor", "--restore-metadata")
        assert code in (ExitCode.SUCCESS, ExitCode.FAILED), told
        assert executions(self._home.database) == executions(backup.copies(self._home)[-1])
        self._returned_to_a_copy()

    def _move_the_home(self) -> None:
        if self._home.root.exists() and not self._servers:
            self._left_behind |= {str(path.relative_to(self._home.artifacts)) for path in self._home.outputs()}
            moved = Home(self._home.root.with_name(f"{self._home.root.name}x"))
            self._home.root.rename(moved.root)
            self._home = moved

    @precondition(lambda self: len(self._servers) < 2 and any(self._model(n).versions() for n in EXPERIMENTS))
    @rule(alone=st.booleans(), versions=st.sampled_from(["stable", "stable", "all", "latest:2"]))
    def start_a_server(self, alone: bool, versions: str) -> None:
        names = [name for name in EXPERIMENTS if self._model(name).versions()]
        ports = {8500, 8510} - {int(server.target.rpartition(":")[2]) for server in self._servers}
        port = min(ports)
        models = tuple(names[:1]) if alone else ()
        settings = serve.ServerSettings(models, "embedded", versions, port=port, rest_port=port + 1)
        self._servers.append(Server(self._home, settings))

    @precondition(lambda self: self._servers)
    @rule()
    def stop_a_server(self) -> None:
        self._servers.pop(0).stop()

    # What must hold.

    @invariant()
    def a_model_with_versions_has_a_stable_one(self) -> None:
        for name in EXPERIMENTS:
            labels, there = self._model(name).labels(), self._model(name).versions()
            assert (labels.stable in there) if there else labels.stable is None
            assert labels.canary is None or labels.canary in there
            assert labels.canary != labels.stable or labels.stable is None

    @invariant()
    def a_version_goes_by_gc_and_by_hand_alone(self) -> None:
        for name in EXPERIMENTS:
            there = set(self._model(name).versions())
            assert self._there[name] <= there, "a version is lost"
            self._there[name] = there

    @invariant()
    def a_version_is_what_it_was_when_it_was_pushed(self) -> None:
        for name in EXPERIMENTS:
            for version in self._model(name).versions():
                assert self._model(name).is_as_pushed(version)
                text = self._text(name, version)
                assert self._pushed.setdefault((name, version), text) == text, "a number was given twice"

    @invariant()
    def two_versions_are_two_models(self) -> None:
        for name in EXPERIMENTS:
            texts = [self._text(name, version) for version in self._model(name).versions()]
            assert len(set(texts)) == len(texts)

    @invariant()
    def servers_answer_with_what_the_labels_say(self) -> None:
        self._settle_servers()
        for server in self._servers:
            for model in server.followed:
                wanted = labelled(self._home, model)
                assert server.stub.answering(model, None) == set(wanted.versions)
                for label, version in wanted.labels.items():
                    assert server.stub.answering(model, label) == {version}

    @invariant()
    def what_is_listed_is_what_is_there(self) -> None:
        rows = [row for row in listing.model_rows(self._home, None) if row["version"] is not None]
        there = [(name, version) for name in sorted(EXPERIMENTS) for version in self._model(name).versions()]
        assert [(row["model"], row["version"]) for row in rows] == there
        for row in rows:
            labels = self._model(row["model"]).labels().of_version(row["version"])
            assert row["state"] == (", ".join(labels) or "kept")

    @invariant()
    def nothing_runs(self) -> None:
        states = {row["state"] for row in listing.run_rows(self._home, None)}
        assert states <= {"stopped", "failed", "rejected", "pushed"}

    @invariant()
    def every_version_has_a_lineage(self) -> None:
        if not self._home.has_metadata:
            return
        store = metadata_store.connect(self._home)
        for name in EXPERIMENTS:
            for version in set(self._model(name).versions()) - {v for n, v in self._without_lineage if n == name}:
                origin = lineage.of_version(store, name, version)
                assert origin.facts["pushed_version"] == version

    @invariant()
    def the_metadata_are_what_is_there(self) -> None:
        if not self._home.has_metadata:
            return
        store = metadata_store.connect(self._home)
        states = {execution.last_known_state for execution in store.get_executions()}
        assert self._left_running or not states & {Execution.RUNNING, Execution.NEW}
        assert self._without_folder() <= self._missing

    # How it is done.

    def _without_folder(self) -> set[str]:
        """Returns the artifacts that the metadata know, and that are not there: but for those of before a move."""
        if not self._home.has_metadata:
            return set()
        live = [a for a in metadata_store.connect(self._home).get_artifacts() if a.state == Artifact.LIVE]
        own = {a.uri for a in live if a.uri.startswith(f"{self._home.artifacts}/")}
        return {uri for uri in own if not Path(uri).exists()}

    def _all_files(self) -> set[tuple[str, bytes]]:
        """Returns the files of the home that hold state: all but logs and locks."""
        kept = (self._home.serving, self._home.artifacts, self._home.backups)
        paths = [path for folder in kept for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {(str(path), path.read_bytes()) for path in paths}

    def _datetime(self) -> Any:
        """Returns the module, with the clock of this life."""
        life = self

        class Shifted(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime.datetime:
                return datetime.datetime.now(tz) + life._clock

        return mock.Mock(wraps=datetime, datetime=Shifted, date=datetime.date, timezone=datetime.timezone)

    def _conveyor(self, death: int | None, *arguments: str) -> tuple[ExitCode | None, Any]:
        """Runs a command; returns its exit code, None where it died, and its JSON."""
        dying = contextlib.nullcontext() if death is None else dying_before(death)
        try:
            with dying:
                result = CliRunner().invoke(main, [*arguments, "--home", str(self._home.root), "--json"])
        except Died:
            return None, None
        if result.exception and not isinstance(result.exception, SystemExit):
            raise AssertionError("".join(traceback.format_exception(result.exception)))
        hypothesis.note(f"{' '.join(arguments)}: {result.exit_code} {result.stdout}")
        return ExitCode(result.exit_code), json.loads(
            re.search(r"^[\[{].*", result.stdout, re.MULTILINE | re.DOTALL)[0]
        )

    def _model(self, name: str) -> StoredModel:
        return self._home.models.model(name)

    def _text(self, name: str, version: int | None) -> str:
        if version is None:
            return ""
        path = self._model(name).path(version) / stub_training.TEXT
        return path.read_text() if path.exists() else self._pushed[name, version]

    def _spans(self) -> set[str]:
        return {path.name for path in self._data.glob("span-*")}

    def _draw(self, folder: Path, count: int) -> None:
        for label in ("a", "b"):
            (folder / label).mkdir(parents=True)
            for number in range(count):
                pixels = self._pictures.integers(0, 256, (4, 4), np.uint8)
                PIL.Image.fromarray(pixels).save(folder / label / f"{number}.png")

    def _tick(self, _: float = 0) -> None:
        for server in self._servers:
            server.step()

    def _settle_servers(self) -> None:
        for _ in range(STEPS_OF_A_SERVER):
            self._tick()

    def _answering(self, target: str, model: str, label: str | None = None) -> set[int]:
        return next((s.stub.answering(model, label) for s in self._servers if s.target == target), set())


LIVES = os.environ.get("HOME_LIVES")  # how many, each another one; without it, some that are always the same

HomeLife.TestCase.settings = hypothesis.settings(
    max_examples=int(LIVES or 20),
    stateful_step_count=40,
    deadline=None,
    derandomize=not LIVES,
    database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
TestHomeLife = HomeLife.TestCase
