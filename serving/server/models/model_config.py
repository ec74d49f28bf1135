"""What a ModelServerConfig must be to be served."""

from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from serving.server.protocol.errors import invalid_argument


def validate(config: model_server_config_pb2.ModelServerConfig) -> None:
    """Checks a configuration.

    Raises:
      StatusError: INVALID_ARGUMENT, with the model and what is wrong.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid_argument("Only a model_config_list can be served; custom_model_config is not supported.")
    seen = set()
    for entry in config.model_config_list.config:
        if not entry.name or not entry.base_path:
            raise invalid_argument("Each model in model_config_list needs a name and a base_path.")
        if entry.name in seen:
            raise invalid_argument(f"Illegal to list model {entry.name} multiple times in config list")
        seen.add(entry.name)
        if entry.model_platform != "tensorflow" and entry.model_type != 1:  # 1: the deprecated TENSORFLOW
            raise invalid_argument(
                f"Model {entry.name} requests unsupported platform {entry.model_platform!r}; only 'tensorflow' is."
            )
        if "://" in entry.base_path:
            raise invalid_argument(f"Model {entry.name}: only local folders are served, not {entry.base_path}.")
        if not Path(entry.base_path).is_absolute():
            raise invalid_argument(
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}"
            )
