"""A server of no models: it obeys its configuration file by TensorFlow Serving's rules, one change at a time."""

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from pipeline.release.server_files import MODELS


class StubServer:
    """A server that has loaded some versions of some models, and knows some labels.

    Attributes:
      folder: holds its configuration file.
      loaded: versions by model.
      labels: versions by label by model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, set[int]] = {}
        self._wanted: dict[str, set[int]] = {}
        self.labels: dict[str, dict[str, int]] = {}

    def read(self) -> None:
        """Reads the file, as the server does every second: what is to be loaded, and the labels.

        Labels are refused where one names a version that is not loaded. Where none of the versions that the file names
        is on the disk, nothing changes.
        """
        config = model_server_config_pb2.ModelServerConfig()
        text_format.Parse((self.folder / MODELS).read_text(), config)
        for model in config.model_config_list.config:
            there = {int(path.name) for path in Path(model.base_path).iterdir() if path.name.isdecimal()}
            if wanted := _wanted(model.model_version_policy, there):
                self._wanted[model.name] = wanted
            if set(model.version_labels.values()) <= self.loaded.get(model.name, set()):
                self.labels[model.name] = dict(model.version_labels)

    def load_and_unload(self) -> None:
        """Loads what the file named, and then lets go of what it did not, whatever the labels are."""
        self.loaded = {model: set(versions) for model, versions in self._wanted.items()}

    def answering(self, model: str, label: str | None) -> set[int]:
        """Returns the versions of a model that are loaded, or the one of a label."""
        loaded = self.loaded.get(model, set())
        if label is None:
            return set(loaded)
        return {self.labels.get(model, {}).get(label)} & loaded


def _wanted(policy: Any, there: set[int]) -> set[int]:
    if policy.HasField("all"):
        return there
    if policy.HasField("latest"):
        return set(sorted(there)[-policy.latest.num_versions :])
    return set(policy.specific.versions) & there
