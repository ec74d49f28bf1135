import dataclasses
import os
from pathlib import Path

# Before anything imports TensorFlow: its C++ would otherwise write to every test's standard error.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import filelock
import hypothesis
import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen.dataset import Dataset
from components.image_example_gen.executor import serialize
from conveyor.settings import to_json
from pipeline.data.fetch import FetchError, fetch
from pipeline.experiments import load
from tests.compatibility import pytest_collection_modifyitems, pytest_runtest_logreport, pytest_sessionfinish  # noqa: F401
from tests.digits import read_idx, write_idx
from tests.ray_cluster import cluster, ray  # noqa: F401
from trainer.examples import Split
from trainer.settings import TrainingJob, TrainingSpec

# The same examples each time, so that no test fails now and then; `--hypothesis-profile=search` draws others.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("search", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session")
def data(request) -> Path:
    """A folder that outlives the session, so that the real data sets are fetched once."""
    return request.config.cache.mkdir("conveyor-data")


def _fetched(name: str, data: Path) -> Path:
    try:
        with filelock.FileLock(data / f"{name}.lock"):  # tests run in several processes
            return fetch(name, data)
    except FetchError as error:
        pytest.skip(f"needs the real {name}: {error}")


@pytest.fixture(scope="session")
def mnist(data) -> Path:
    return _fetched("mnist", data)


@pytest.fixture(scope="session")
def cifar10(data) -> Path:
    return _fetched("cifar10", data)


@pytest.fixture(scope="session")
def mnist_dataset() -> Dataset:
    return load("mnist").dataset


@pytest.fixture(scope="session")
def cifar10_dataset() -> Dataset:
    return load("cifar10").dataset


@pytest.fixture(scope="session")
def mnist_job() -> TrainingJob:
    return load("mnist").training_job()


@pytest.fixture(scope="session")
def digits(mnist) -> Split:
    """The first 1,000 training images of real MNIST."""
    images, labels = read_idx(mnist, "train", 1000)
    return Split(images[..., np.newaxis], labels.astype(np.int64))


@pytest.fixture
def short_job(mnist_job):
    """Twelve steps of 16 images, a line and a checkpoint every four."""
    training = dataclasses.replace(
        mnist_job.training, steps=12, batch_size=16, log_every=4, checkpoint_every=4, eval_every=8
    )
    return dataclasses.replace(mnist_job, training=training)


@pytest.fixture
def spec(short_job, digits, tmp_path):
    """Writes a specification of a training on 800 digits, and 200 to test with."""
    for split, part in (("train", slice(0, 800)), ("test", slice(800, 1000))):
        folder = tmp_path / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "data")) as writer:
            for record in serialize(digits.images[part], digits.labels[part]):
                writer.write(record.content)

    def write(learning_rate=1e-4, initial=None, **changes):
        training = dataclasses.replace(short_job.training, **changes)
        parameters = short_job.network.parameters | {"learning_rate": learning_rate}
        network = dataclasses.replace(short_job.network, parameters=parameters)
        job = dataclasses.replace(short_job, training=training, network=network)
        folders = {name: str(tmp_path / name) for name in ("examples", "checkpoints", "model", "run")}
        written = TrainingSpec(job=job, train=(folders["examples"],), spans={}, initial=initial, **folders)
        (tmp_path / "spec.json").write_text(to_json(written))
        return tmp_path / "spec.json"

    return write


@pytest.fixture(scope="session")
def small_mnist(mnist, tmp_path_factory) -> Path:
    """The first 2,000 training and 500 test images of real MNIST, as IDX files."""
    folder = tmp_path_factory.mktemp("small-mnist")
    write_idx(folder, "train", *read_idx(mnist, "train", 2000))
    write_idx(folder, "t10k", *read_idx(mnist, "t10k", 500))
    return folder


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory) -> Path:
    """Base path of a model of TensorFlow 1, with version 1."""
    from tests.serving import models

    base = tmp_path_factory.mktemp("half_plus_two")
    models.half_plus_two(base / "1")
    return base


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Base path of a model with signatures of many types, with version 1."""
    from tests.serving import models

    base = tmp_path_factory.mktemp("shapes")
    models.shapes(base / "1")
    return base
