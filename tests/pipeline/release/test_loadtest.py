import pytest

from conveyor.errors import ConfigError
from pipeline.home.folders import Home
from pipeline.release.loadtest import load_test
from tests.serving import models


def test_a_load_over_rest_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the load goes over gRPC"):
        load_test(Home(tmp_path), "http://localhost:8501", "m", 1, 1.0, 1)


def test_a_request_that_no_message_holds_is_refused_before_it_is_made(tmp_path):
    models.network(tmp_path / "serving" / "m" / "1")
    with pytest.raises(ConfigError, match=r"--batch 1000000: .* would take 3\.1 GB"):
        load_test(Home(tmp_path), "localhost:1", "m", 1, 1.0, 1_000_000)
