"""What the client raises."""

import contextlib
from collections.abc import Iterator

import grpc

from conveyor.errors import ConveyorError

CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class ServingError(ConveyorError):
    """What a server, or the way to it, refused.

    Attributes:
      code: name of a gRPC status code, such as `NOT_FOUND`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@contextlib.contextmanager
def tls_errors() -> Iterator[None]:
    """Turns a certificate or a key that cannot be read into a `ServingError`, INVALID_ARGUMENT."""
    try:
        yield
    except OSError as error:  # of ssl too
        raise ServingError("INVALID_ARGUMENT", f"a certificate or key cannot be read: {error}") from error
