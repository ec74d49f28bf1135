"""A configured model, its versions, and how far each is."""

import dataclasses
import enum
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from serving.server.protocol.errors import StatusError


class State(enum.IntEnum):
    """A version's state, numbered as in get_model_status.proto."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclasses.dataclass(eq=False)
class Version:
    """A version of a model. All but its name is changed under the manager's lock alone.

    Attributes:
      model: the model's name.
      number: the version's number.
      path: its folder.
      state: how far it is.
      error: why it could not be loaded; None where nothing is wrong.
      wanted: whether the configuration asked for it when its folder was last looked at.
    """

    model: str
    number: int
    path: Path
    state: State = State.START
    error: StatusError | None = None
    wanted: bool = False


@dataclasses.dataclass
class Model:
    """A configured model.

    Attributes:
      config: its ModelConfig; None once it is to be unloaded.
      versions: by number, those that were unloaded too.
      labels: versions by label.
      missing: why nothing was found to load; empty where something was.
    """

    config: model_server_config_pb2.ModelConfig | None
    versions: dict[int, Version] = dataclasses.field(default_factory=dict)
    labels: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: str = ""

    def available(self) -> list[int]:
        """Returns the numbers of the versions that answer, rising."""
        return sorted([number for number, version in self.versions.items() if version.state is State.AVAILABLE])

    def failures(self) -> list[str]:
        """Returns why versions could not be loaded, or why none was found."""
        errors = [str(version.error) for version in self.versions.values() if version.error]
        return [*errors, self.missing] if self.missing else errors

    def is_settled(self) -> bool:
        """Whether it has a version that answers, or has failed to get one."""
        ended = any(version.state == State.END and version.error for version in self.versions.values())
        return bool(self.available() or self.missing or ended)
