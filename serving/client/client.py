"""A client of TensorFlow Serving and of the embedded server.

It needs numpy, grpcio and protobuf, and neither TensorFlow nor TFX.

Example:
  from conveyor import Client

  with Client("localhost:8500", model="mnist") as client:
      prediction = client.predict(images)  # uint8 [N, height, width, channels]
      print(prediction.classes[0, prediction.label[0]], prediction.version)
"""

import random
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.client.errors import ServingError
from serving.client.grpc import GrpcTransport
from serving.client.images import request_of
from serving.client.models import GRPC_SCHEMES, ModelSpec, Prediction, Signature, Tls, Transport, VersionStatus
from serving.client.rest import RestTransport

if TYPE_CHECKING:
    from serving.client.images import Images

STABLE = "stable"


class Client:
    """Asks one server; safe to share between threads."""

    def __init__(
        self,
        target: str,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 10.0,
        retries: int = 5,
        tls: Tls | None = None,
    ) -> None:
        """Makes a client; connects when first asked.

        Args:
          target: `host:port` or `unix:/path` for gRPC, `http://host:port` or `https://host:port` for REST. A model's
            name may follow, as in `localhost:8500/mnist`.
          model: the model's name; `default`, as in TensorFlow Serving, if none is given.
          version: the version to ask for.
          label: or the label.
          timeout: of a call with all its tries, seconds.
          retries: how often a call is tried again that was answered with UNAVAILABLE.
          tls: how to encrypt; None for not at all over gRPC, and for the system's own certificates over https.

        Raises:
          ServingError: INVALID_ARGUMENT, where the target is no address, or names no port for gRPC, or another model
            than `model`; or a certificate cannot be read.
          ValueError: there are less than no retries, or a version and a label.
        """
        if retries < 0:
            raise ValueError(f"retries are 0 or more, not {retries}")
        target, named = _split(target)
        if model and named and model != named:
            raise ServingError("INVALID_ARGUMENT", f"the address names the model {named}, and {model} is to be asked")
        self.spec = ModelSpec(model or named or "default", version, label)
        self._timeout, self._retries = timeout, retries
        over_http = target.lower().startswith(("http://", "https://"))
        self._transport: Transport = RestTransport(target, tls) if over_http else GrpcTransport(target, tls)

    @classmethod
    def stable(cls, target: str, model: str | None = None, **options: Any) -> "Client":
        """Makes a client that asks for the version with the label `stable`, and not for a canary.

        Where the server knows no such label, it asks for the highest version.

        Args:
          target: see `Client`, as for the rest.
          model: the model's name.
          options: `timeout`, `retries`, `tls`.

        Raises:
          ServingError: the server does not answer, or has no such model.
        """
        for label in (STABLE, None):
            client = cls(target, model, label=label, **options)
            try:
                client.status()
            except ServingError as error:
                client.close()
                if label is None or label not in error.message:
                    raise
            else:
                break
        return client

    def predict(
        self,
        images: "Images",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Returns the classes of images.

        Args:
          images: uint8 [N, height, width, channels]; floats in [0, 1] of any shape that reshapes to it; a list of
            such arrays, of one image each; or N PNG, JPEG, GIF, BMP or WebP files: paths, their bytes or PIL images.
            A single file needs no list.
          version: the version to ask for, instead of the client's own.
          label: or the label.
          timeout: seconds, instead of the client's own.

        Raises:
          ServingError: the server refuses, or does not answer in time.
          OSError: a file cannot be read.
          TypeError: the images are of another type.
          ValueError: there is no image, or floats are not in [0, 1].
        """
        signature, inputs = request_of(images)
        reply, answered = self._ask(
            lambda transport, spec, left: transport.predict(spec, signature, inputs, (), left), version, label, timeout
        )
        try:
            names = np.array([[_text(item) for item in row] for row in reply["classes"]], dtype=str)
            return Prediction(reply["scores"], names, reply["label"], answered)
        except KeyError as error:
            raise ServingError("FAILED_PRECONDITION", f"{self.spec.model} does not return {error}") from error
        except (TypeError, ValueError) as error:
            raise ServingError("DATA_LOSS", f"the classes in the server's answer cannot be read: {error}") from error

    def call(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Returns the outputs of any signature; all of them where none is named.

        Raises:
          ServingError: the server refuses, or does not answer in time.
        """
        outputs = (outputs,) if isinstance(outputs, str) else outputs
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        return self._ask(
            lambda transport, spec, left: transport.predict(spec, signature, arrays, outputs, left),
            version, label, timeout,
        )[0]  # fmt: skip

    def status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Returns the state of every version that the server knows, the newest first.

        Raises:
          ServingError: NOT_FOUND for an unknown model, or the server does not answer.
        """
        return self._ask(lambda transport, spec, left: transport.status(spec, left), None, None, timeout)

    def metadata(self, timeout: float | None = None) -> dict[str, Signature]:
        """Returns the signatures by name.

        Raises:
          ServingError: NOT_FOUND for an unknown model, or the server does not answer.
        """
        return self._ask(lambda transport, spec, left: transport.metadata(spec, left), None, None, timeout)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self,
        call: Callable[[Transport, ModelSpec, float], Any],
        version: int | None,
        label: str | None,
        timeout: float | None,
    ) -> Any:
        """Calls, and again while the server is unavailable: after 0.05 s, 0.1 s, ... each with jitter."""
        spec = self.spec if version is None and label is None else ModelSpec(self.spec.model, version, label)
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        for attempt in range(self._retries + 1):
            try:
                return call(self._transport, spec, max(0.001, deadline - time.monotonic()))
            except ServingError as error:
                pause = 0.05 * 2**attempt * random.uniform(0.5, 1.5)
                last = attempt == self._retries or time.monotonic() + pause > deadline
                if error.code != "UNAVAILABLE" or last:
                    raise
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def _split(target: str) -> tuple[str, str | None]:
    """Returns a target without its model, and the model."""
    scheme, slashes, rest = target.rpartition("://")
    if target.startswith(GRPC_SCHEMES) or "/" not in rest:
        return target, None
    host, _, model = rest.partition("/")
    return scheme + slashes + host, urllib.parse.unquote(model.strip("/")) or None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
