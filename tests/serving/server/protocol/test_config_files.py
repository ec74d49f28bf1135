import pytest

from serving.server.protocol import config_files
from serving.server.protocol.errors import StatusError


@pytest.mark.compatible("configuration files")
def test_model_config_of_the_documentation_is_read(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(
        """
        model_config_list {
          config {
            name: 'my_model'
            base_path: '/models/my_model/'
            model_platform: 'tensorflow'
            model_version_policy { specific { versions: 42 versions: 43 } }
            version_labels { key: 'stable' value: 42 }
          }
        }
        """
    )
    entry = config_files.read(path, "ModelServerConfig").model_config_list.config[0]
    assert list(entry.model_version_policy.specific.versions) == [42, 43]
    assert dict(entry.version_labels) == {"stable": 42}


@pytest.mark.compatible("configuration files")
def test_tls_and_monitoring_are_read(tmp_path):
    path = tmp_path / "ssl.config"
    path.write_text('server_key: "KEY"\nserver_cert: "CERT"\ncustom_ca: ""\nclient_verify: true\n')
    config = config_files.read(path, "SSLConfig")
    assert (config.server_key, config.server_cert, config.client_verify) == ("KEY", "CERT", True)
    path.write_text('prometheus_config { enable: true path: "/metrics" }')
    assert config_files.read(path, "MonitoringConfig").prometheus_config.path == "/metrics"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model_config_list {", "1:"),
        (b"no_such_field: 1", "no_such_field"),
        (b"\xff\xfe\x00", "is not text"),
    ],
)
@pytest.mark.compatible("configuration files")
def test_faults_are_told_with_file_and_place(tmp_path, content, message):
    path = tmp_path / "models.config"
    path.write_bytes(content)
    with pytest.raises(StatusError, match=message) as error:
        config_files.read(path, "ModelServerConfig")
    assert str(path) in error.value.message


@pytest.mark.compatible("configuration files")
def test_missing_file_is_told(tmp_path):
    with pytest.raises(StatusError, match="cannot be read: No such file") as error:
        config_files.read(tmp_path / "none", "SSLConfig")
    assert error.value.code == "NOT_FOUND"
