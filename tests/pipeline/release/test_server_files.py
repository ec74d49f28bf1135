import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from conveyor.errors import ConfigError
from pipeline.home.folders import Home
from pipeline.release import server_files
from pipeline.release.server_files import Served, VersionChoice
from serving.model_store import Labels
from serving.model_store.store import LABELS
from serving.server import flags
from serving.server.models.batching import BatchingParameters
from serving.server.protocol import config_files

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path):
    for version in ("mnist/1", "mnist/12", "cifar10/3", "empty/.staging"):
        (tmp_path / "serving" / version).mkdir(parents=True)
    return Home(tmp_path)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", "latest { num_versions: 1 }"),
        ("latest:3", "latest { num_versions: 3 }"),
        ("all", "all {}"),
        ("1,12", "specific { versions: 1 versions: 12 }"),
        ("1, 12", "specific { versions: 1 versions: 12 }"),
    ],
)
def test_versions(home, text, policy):
    served = VersionChoice.of(text).of_model(home, "mnist", {})
    numbers = " ".join(f"versions: {number}" for number in served.versions)
    assert (served.policy or f"specific {{ {numbers} }}") == policy


def test_stable_versions_are_those_that_have_the_labels(home):
    assert VersionChoice.of("stable").of_model(home, "mnist", {}) == Served((12,), {"stable": 12})
    labels = Labels(stable=1, canary=12)
    (home.serving / "mnist" / LABELS).write_text(json.dumps(dataclasses.asdict(labels)))
    assert VersionChoice.of("stable").of_model(home, "mnist", {}) == Served((1, 12), {"stable": 1, "canary": 12})
    assert VersionChoice.of("stable").of_model(home, "cifar10", {"x": 3}) == Served((3,), {"stable": 3, "x": 3})


@pytest.mark.parametrize(("text", "labels"), [("7", {}), ("1,7", {}), ("stable", {"tried": 7}), ("all", {"tried": 7})])
def test_versions_that_are_not_there_are_refused(home, text, labels):
    with pytest.raises(ConfigError, match="There is no version 7 of mnist; there are 1, 12"):
        VersionChoice.of(text).of_model(home, "mnist", labels)


@pytest.mark.parametrize("text", ["latest", "12"])
def test_labels_of_versions_that_are_left_out_are_refused(home, text):
    with pytest.raises(ConfigError, match="The label tried is of version 1 of mnist, which --versions leaves out"):
        VersionChoice.of(text).of_model(home, "mnist", {"tried": 1})


@pytest.mark.parametrize("text", ["", "newest", "latest:0", "3,", "-1"])
def test_other_versions_are_refused(text):
    with pytest.raises(ConfigError, match="must be stable, latest, latest:N, all"):
        VersionChoice.of(text)


def test_models_with_versions_are_served(home):
    assert server_files.pushed_models(home, ()) == {"cifar10": 3, "mnist": 12}
    assert server_files.pushed_models(home, ("mnist",)) == {"mnist": 12}
    with pytest.raises(ConfigError, match=r"No model flowers has been pushed.*There are: cifar10, mnist"):
        server_files.pushed_models(home, ("flowers",))


def test_nothing_to_serve_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="Run a pipeline first: conveyor run mnist"):
        server_files.pushed_models(Home(tmp_path), ())


def test_labels():
    assert server_files.labels_of(("stable=3",), {"m": 4}) == {"m": {"stable": 3}}
    assert server_files.labels_of(("n:canary=4",), {"m": 4, "n": 4}) == {"m": {}, "n": {"canary": 4}}
    for text in ("stable", "stable=x", "o:stable=1", "stable=1"):
        with pytest.raises(ConfigError, match="--label"):
            server_files.labels_of((text,), {"m": 4, "n": 4})


def test_what_is_written_is_what_the_server_reads(home):
    latest = VersionChoice.of("latest:2").of_model(home, "mnist", {"stable": 1})
    folder = home.server
    folder.mkdir()
    server_files.write(home, folder, {"mnist": latest, "cifar10": Served((3,), {})})
    config = config_files.read(folder / server_files.MODELS, "ModelServerConfig").model_config_list.config
    assert [(entry.name, entry.base_path) for entry in config] == [
        ("mnist", str(home.serving / "mnist")),
        ("cifar10", str(home.serving / "cifar10")),
    ]
    assert config[0].model_version_policy.latest.num_versions == 2
    assert dict(config[0].version_labels) == {"stable": 1}
    assert list(config[1].model_version_policy.specific.versions) == [3]
    assert BatchingParameters.read(folder / server_files.BATCHING).largest == 32
    monitoring = config_files.read(folder / server_files.MONITORING, "MonitoringConfig")
    assert monitoring.prometheus_config.enable
    given = flags.parse(server_files.flags(folder, 1, 2))
    assert (given.port, given.rest_api_port, given.ignored) == (1, 2, {})


def test_compose_file_starts_the_server_with_the_same_flags(home):
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    folder = home.root / "server" / "8500"
    for flag in server_files.flags(folder, 8500, 8501):
        assert flag.replace(str(home.root), "${CONVEYOR_HOME}") in text.replace(
            "${CONVEYOR_HOME:?the absolute path of the home folder}", "${CONVEYOR_HOME}"
        )


@pytest.mark.slow
def test_protoset_holds_the_whole_protocol(tmp_path):
    path = tmp_path / "serving.protoset"
    subprocess.run([sys.executable, "-m", "serving.protoset", str(path)], cwd=ROOT, check=True, capture_output=True)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    service = pool.FindServiceByName("tensorflow.serving.PredictionService")
    assert service.methods_by_name["Predict"].input_type.full_name == "tensorflow.serving.PredictRequest"
    assert pool.FindServiceByName("tensorflow.serving.ModelService")
