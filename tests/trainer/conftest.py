import dataclasses

import pytest

from pipeline.experiments import load


def with_parameters(network, **parameters):
    return dataclasses.replace(network, parameters=network.parameters | parameters)


@pytest.fixture(scope="session")
def cifar10_job():
    return load("cifar10").training_job()
