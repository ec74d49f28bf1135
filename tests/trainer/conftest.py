import dataclasses

import pytest

from pipeline.experiments import load


def with_parameters(network, **parameters):
    return dataclasses.replace(network, parameters=network.parameters | parameters)


@pytest.fixture(scope="session")
def cifar10_job():
    return load("cifar10").training_job()


@pytest.fixture
def short_job(mnist_job):
    """Twelve steps of 16 images, a line and a checkpoint every four."""
    training = dataclasses.replace(
        mnist_job.training, steps=12, batch_size=16, log_every=4, checkpoint_every=4, eval_every=8
    )
    return dataclasses.replace(mnist_job, training=training)
