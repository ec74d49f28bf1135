"""Failures that have a status code, by the names that gRPC and TensorFlow share."""

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    import tensorflow as tf

# Of a message. It travels in a header whose length is limited, and takes up to three times as many there; a request's
# own names, which may be as long as the request, are in messages.
MAX_BYTES = 2000


class StatusError(Exception):
    """A failure with a status code.

    Attributes:
      code: name of the code, such as `NOT_FOUND`.
      message: the text that the client gets, at most `MAX_BYTES` and an ellipsis long.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        whole = message[: MAX_BYTES + 1].encode("utf-8", "replace")  # of a long one no more than can be kept
        cut = whole[:MAX_BYTES].decode("utf-8", "ignore")
        self.message = cut if len(whole) <= MAX_BYTES else f"{cut}..."

    def __reduce__(self) -> tuple[type["StatusError"], tuple[str, str]]:
        return StatusError, (self.code, self.message)  # from process to process

    @property
    def grpc_code(self) -> grpc.StatusCode:
        """The code as gRPC's own."""
        return grpc.StatusCode[self.code]


def invalid_argument(message: str) -> StatusError:
    """Returns the commonest of them."""
    return StatusError("INVALID_ARGUMENT", message)


_BY_NUMBER = {code.value[0]: code.name for code in grpc.StatusCode}


def of_tensorflow(error: "tf.errors.OpError") -> StatusError:
    """Returns TensorFlow's own failure as one of ours; the codes' numbers are gRPC's."""
    return StatusError(_BY_NUMBER.get(error.error_code, "UNKNOWN"), error.message)
