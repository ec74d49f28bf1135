import dataclasses

import pytest

from conveyor.errors import ConfigError
from conveyor.settings import from_json, to_json
from trainer.settings import TrainingJob, TrainingSpec


def test_a_specification_survives_json(cifar10_job):
    spec = TrainingSpec(cifar10_job, "e", ("t", "u"), {"span-1": "s"}, None, "c", "m", "r")
    assert from_json(TrainingSpec, to_json(spec)) == spec


def test_integers_stay_integers(cifar10_job):
    read = from_json(TrainingJob, to_json(cifar10_job))
    assert type(read.training.steps) is int
    assert type(read.shape[0]) is int


def test_a_specification_without_a_folder_is_refused(cifar10_job):
    with pytest.raises(ConfigError, match=r"training specification.checkpoints is missing"):
        from_json(TrainingSpec, '{"job": ' + to_json(cifar10_job) + "}")


def test_lists_are_tuples_before_and_after_json(cifar10_job):
    network = dataclasses.replace(cifar10_job.network, parameters={"widths": [16, [32]]})
    assert network.parameters == {"widths": (16, (32,))}
    job = dataclasses.replace(cifar10_job, network=network)
    assert from_json(TrainingJob, to_json(job)) == job
