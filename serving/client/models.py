"""What the client takes and returns."""

import contextlib
import dataclasses
import ipaddress
import operator
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from serving.client.errors import ServingError


@dataclasses.dataclass(frozen=True)
class Tls:
    """How to encrypt: paths of PEM files.

    Attributes:
      root_certificates: whom to trust; None for the system's own.
      certificate: the client's, where the server wants one.
      key: its key.
    """

    root_certificates: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):  # gRPC would end the process
            raise ValueError("a client's certificate and its key are given together")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer to a batch of N images.

    Attributes:
      scores: probabilities, float32 [N, classes].
      classes: their names, in the same order for every image: str [N, classes].
      label: the likeliest class's index, int64 [N].
      version: the version that answered; None over REST, which does not say.
    """

    scores: np.ndarray
    classes: np.ndarray
    label: np.ndarray
    version: int | None

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Returns the names and probabilities of the likeliest classes of each image, the likeliest first.

        Args:
          count: how many classes an image; all of them where there are fewer.
        """
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        return [
            [(str(names[place]), float(scores[place])) for place in places]
            for names, scores, places in zip(self.classes, self.scores, order, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """A version's state.

    Attributes:
      state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
      error_code: `OK`, or why it could not be loaded.
    """

    version: int
    state: str
    error_code: str
    error_message: str


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a signature takes or returns: its numpy type and its sizes, -1 where one is open; None where the rank is."""

    dtype: np.dtype
    shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """A signature's inputs and outputs."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method: str


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which model to ask, and which version of it: by number, by label, or the latest."""

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError("ask for a version or for a label, not for both")
        if self.version is not None:
            try:
                object.__setattr__(self, "version", operator.index(self.version))
            except TypeError as error:
                raise TypeError(f"a version is a number, not {self.version!r}") from error
        if self.version is not None and not 0 <= self.version < 2**63:
            raise ValueError(f"there is no version {self.version}: a version is a number from 0 to 2^63 - 1")


class Transport(Protocol):
    """A way to a server: gRPC or REST. Every call raises `ServingError`."""

    def predict(
        self, spec: ModelSpec, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> tuple[dict[str, np.ndarray], int | None]: ...

    def status(self, spec: ModelSpec, timeout: float) -> list[VersionStatus]: ...

    def metadata(self, spec: ModelSpec, timeout: float) -> dict[str, Signature]: ...

    def close(self) -> None: ...


GRPC_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")  # of gRPC's own targets


def is_local(target: str) -> bool:
    """Whether a target is this machine, to which no proxy is the way.

    Raises:
      ServingError: it is no address.
    """
    target = target.lower()
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    address = target if target.startswith("http") else re.sub(r"(dns:(//[^/]*/)?|ipv4:|ipv6:)?", "//", target, count=1)
    try:
        host = urllib.parse.urlsplit(address).hostname or ""
    except ValueError as error:
        raise ServingError("INVALID_ARGUMENT", f"{target} is no address: {error}") from error
    with contextlib.suppress(ValueError):  # a name
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
