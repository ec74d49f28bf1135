import pytest
from click.testing import CliRunner

from conveyor.errors import ConfigError
from pipeline.cli.main import main
from pipeline.home.folders import Home
from pipeline.release.loadtest import load_test
from tests.serving import models


def test_a_load_over_rest_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the load goes over gRPC"):
        load_test(Home(tmp_path), "http://localhost:8501", "m", 1, 1.0, 1)


@pytest.mark.parametrize("target", ["localhost", "localhost:1/other"])
def test_an_address_that_no_client_takes_is_a_wrong_option(tmp_path, target):
    done = CliRunner().invoke(main, ["loadtest", "m", "--target", target, "--home", str(tmp_path)])
    assert done.exit_code == 2
    assert f"--target {target}: " in done.output


def test_a_request_that_no_message_holds_is_refused_before_it_is_made(tmp_path):
    models.network(tmp_path / "serving" / "m" / "1")
    with pytest.raises(ConfigError, match=r"--batch 1000000: .* would take 3\.1 GB"):
        load_test(Home(tmp_path), "localhost:1", "m", 1, 1.0, 1_000_000)
