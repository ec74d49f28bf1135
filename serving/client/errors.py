"""What the client raises."""

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
