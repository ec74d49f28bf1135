import pytest

from conveyor.errors import ConfigError
from pipeline.home.folders import Home
from pipeline.release.loadtest import load_test


def test_a_load_over_rest_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the load goes over gRPC"):
        load_test(Home(tmp_path), "http://localhost:8501", "m", 1, 1.0, 1)
