"""The configuration files of a server, made of what a home folder holds; every backend is started from the same."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from conveyor.errors import ConfigError, storage_errors
from conveyor.files import replace_file
from conveyor.processes import ROOT
from pipeline.home.folders import Home

LARGEST_REQUEST = 1024  # images, in TensorFlow Serving; the embedded server takes more
MODELS, BATCHING, MONITORING, PROTOSET = "models.config", "batching.config", "monitoring.config", "serving.protoset"


@dataclasses.dataclass(frozen=True)
class Served:
    """How one model is served.

    Attributes:
      versions: the versions, rising; empty where `policy` chooses.
      labels: versions by label.
      policy: the ServableVersionPolicy as text, where it is not a list of versions.
    """

    versions: tuple[int, ...]
    labels: dict[str, int]
    policy: str = ""


@dataclasses.dataclass(frozen=True)
class VersionChoice:
    """Which versions of a model are served, as `--versions` says.

    Attributes:
      stable: those that have the labels stable and canary; overrides the others.
      latest: how many of the newest.
      all: every one.
      specific: these alone; empty for the other two.
    """

    stable: bool = False
    latest: int = 1
    all: bool = False
    specific: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str) -> "VersionChoice":
        """Returns `stable`, `latest`, `latest:2`, `all`, or numbers such as `3,4`.

        Raises:
          ConfigError: it is none of them.
        """
        if text == "stable":
            return cls(stable=True)
        if text == "all":
            return cls(all=True)
        if match := re.fullmatch(r"latest(?::([1-9]\d*))?", text):
            return cls(latest=int(match[1] or 1))
        if re.fullmatch(r"\d+( *, *\d+)*", text):
            return cls(specific=tuple(int(part) for part in text.split(",")))
        raise ConfigError(
            f"--versions {text}: it must be stable, latest, latest:N, all, or version numbers such as 3,4."
        )

    def of_model(self, home: Home, model: str, labels: dict[str, int]) -> Served:
        """Returns how a model is served, with some labels besides its own.

        Raises:
          ConfigError: a version is asked for that is not there.
        """
        stored = home.models.model(model)
        for number in (*self.specific, *labels.values()):
            stored.require(number)
        loaded = {*self.specific, *self.as_they_come(stored.versions())}
        for label, number in labels.items():
            if not self.stable and number not in loaded:
                raise ConfigError(f"The label {label} is of version {number} of {model}, which --versions leaves out.")
        if self.stable:
            known = labelled(home, model)
            return Served(tuple(sorted({*known.versions, *labels.values()})), known.labels | labels)
        if self.all or not self.specific:
            return Served((), labels, "all {}" if self.all else f"latest {{ num_versions: {self.latest} }}")
        return Served(self.specific, labels)

    def as_they_come(self, there: list[int]) -> list[int]:
        """Returns the versions that are served without being named, of those that are there."""
        if self.stable or self.specific:
            return []
        return there if self.all else there[-self.latest :]


def pushed_models(home: Home, chosen: tuple[str, ...]) -> dict[str, int]:
    """Returns the models to serve, and the stable version of each.

    Raises:
      ConfigError: one of them, or all, were never pushed.
    """
    found = {model.name: model.stable() for model in home.models.models()}
    stable = {name: number for name, number in found.items() if number is not None}
    missing = [name for name in chosen if name not in stable]
    if missing:
        there = f"There are: {', '.join(stable)}." if stable else "Nothing has been pushed yet: conveyor run mnist."
        raise ConfigError(f"No model {', '.join(missing)} has been pushed in {home.root}. {there}")
    if not stable:
        raise ConfigError(f"Nothing has been pushed in {home.root} yet. Run a pipeline first: conveyor run mnist.")
    return {name: stable[name] for name in chosen or stable}


def labelled(home: Home, model: str) -> Served:
    """Returns a model's stable version, and the canary beside it where there is one."""
    served = home.models.model(model).labels().served
    return Served(tuple(sorted(set(served.values()))), served)


def labels_of(texts: tuple[str, ...], models: dict[str, int]) -> dict[str, dict[str, int]]:
    """Returns `[MODEL:]NAME=VERSION` as versions by label by model; without MODEL, of the only model there is.

    Raises:
      ConfigError: the text has another form, or names a model that is not served.
    """
    named: dict[str, dict[str, int]] = {name: {} for name in models}
    for text in texts:
        match = re.fullmatch(r"(?:([^:=]+):)?([^:=/]+)=(\d+)", text)
        if not match:
            raise ConfigError(f"--label {text}: expected [MODEL:]NAME=VERSION, such as mnist:stable=3.")
        model = match[1] or (next(iter(models)) if len(models) == 1 else "")
        if model not in named:
            raise ConfigError(f"--label {text}: name one of the models: {', '.join(models)}.")
        version = int(match[3])
        if named[model].setdefault(match[2], version) != version:
            raise ConfigError(f"--label {text}: the label {match[2]} is of version {named[model][match[2]]} already.")
    return named


def write_models(home: Home, folder: Path, models: dict[str, Served]) -> None:
    """Writes the file that names the models, their versions and labels; the server reads it every second."""
    entries = []
    for name, served in models.items():
        numbers = " ".join(f"versions: {number}" for number in served.versions)
        policy = served.policy or f"specific {{ {numbers} }}"
        pairs = "".join(f"\n    version_labels {{ key: {json.dumps(k)} value: {v} }}" for k, v in served.labels.items())
        entries.append(
            f"  config {{\n    name: {json.dumps(name)}\n    base_path: {json.dumps(str(home.serving / name))}\n"
            f'    model_platform: "tensorflow"\n    model_version_policy {{ {policy} }}{pairs}\n  }}\n'
        )
    replace_file(folder / MODELS, f"model_config_list {{\n{''.join(entries)}}}\n")


def write(home: Home, folder: Path, models: dict[str, Served]) -> None:
    """Writes a server's files into its folder, each whole or not at all."""
    # A batch runs on every core, so two at once gain nothing on a few; one that runs lets the next fill up.
    threads = max(1, len(os.sched_getaffinity(0)) // 4)
    batching = {
        "max_batch_size": LARGEST_REQUEST,
        "enable_large_batch_splitting": "true",  # what a network needs in memory grows with what it runs at once
        "max_execution_batch_size": 32,
        "batch_timeout_micros": 0,
        "num_batch_threads": threads,
        "max_enqueued_batches": 256,
    }
    with storage_errors(f"The server's files in {folder} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        write_models(home, folder, models)
        replace_file(folder / BATCHING, "".join(f"{k} {{ value: {v} }}\n" for k, v in batching.items()))
        replace_file(folder / MONITORING, 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }\n')


def flags(folder: Path, port: int, rest_port: int) -> list[str]:
    """Returns the flags that every backend is started with."""
    return [
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        f"--model_config_file={folder / MODELS}",
        "--model_config_file_poll_wait_seconds=1",
        "--force_allow_any_version_labels_for_unavailable_models=true",  # a rollback by this file alone moves both
        "--tensorflow_inter_op_parallelism=-1",  # operations of a network follow each other: a pool only hands over
        "--enable_batching=true",
        f"--batching_parameters_file={folder / BATCHING}",
        f"--monitoring_config_file={folder / MONITORING}",
    ]


def protoset(folder: Path) -> Path:
    """Returns the protocol's descriptors, without which grpcurl cannot ask a server that does not reflect.

    They are written by a process of its own: the messages import TensorFlow, and a server's parent need not hold it.
    """
    path = folder / PROTOSET
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "serving.protoset", str(path)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path
