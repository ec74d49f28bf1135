"""Failures that have a status code, by the names that gRPC and TensorFlow share."""

import grpc
import tensorflow as tf


class StatusError(Exception):
    """A failure with a status code.

    Attributes:
      code: name of the code, such as `NOT_FOUND`.
      message: the text that the client gets.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def grpc_code(self) -> grpc.StatusCode:
        """The code as gRPC's own."""
        return grpc.StatusCode[self.code]


def invalid_argument(message: str) -> StatusError:
    """Returns the commonest of them."""
    return StatusError("INVALID_ARGUMENT", message)


_BY_NUMBER = {code.value[0]: code.name for code in grpc.StatusCode}


def of_tensorflow(error: tf.errors.OpError) -> StatusError:
    """Returns TensorFlow's own failure as one of ours; the codes' numbers are gRPC's."""
    return StatusError(_BY_NUMBER.get(error.error_code, "UNKNOWN"), error.message)
