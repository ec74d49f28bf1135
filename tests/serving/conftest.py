import pytest

from tests.serving import models


@pytest.fixture(scope="session")
def half_plus_two(tmp_path_factory):
    """Base path of a model of TensorFlow 1, with version 1."""
    base = tmp_path_factory.mktemp("half_plus_two")
    models.half_plus_two(base / "1")
    return base


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Base path of a model with signatures of many types, with version 1."""
    base = tmp_path_factory.mktemp("shapes")
    models.shapes(base / "1")
    return base
