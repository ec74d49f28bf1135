"""How requests are joined to batches: the parameters of TensorFlow Serving's BatchingSession.

Source: https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
"""

import dataclasses
import os
from pathlib import Path

from serving.server.protocol import config_files
from serving.server.protocol.errors import invalid_argument


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """The real server's batching parameters, with its defaults.

    Attributes:
      max_batch_size: the most rows in a batch.
      batch_timeout_micros: how long a batch waits to fill, microseconds.
      max_enqueued_batches: how many full batches may wait; a request beyond them is answered with UNAVAILABLE.
      num_batch_threads: how many batches of a signature run at once.
      allowed_batch_sizes: sizes that batches are padded to; the last must be `largest`. Empty for no padding.
      enable_large_batch_splitting: whether a request of more rows than a batch may have is split, or runs by itself.
      max_execution_batch_size: the most rows that are run at once, where requests are split; 0 for `max_batch_size`.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = len(os.sched_getaffinity(0))
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    @property
    def largest(self) -> int:
        """The most rows that are run at once."""
        return (self.enable_large_batch_splitting and self.max_execution_batch_size) or self.max_batch_size

    def padded(self, rows: int) -> int:
        """Returns how many rows a batch is padded to."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)

    @classmethod
    def read(cls, path: Path) -> "BatchingParameters":
        """Reads a BatchingParameters text proto.

        Raises:
          StatusError: INVALID_ARGUMENT, where the file is not one, or its values contradict each other.
        """
        message = config_files.read(path, "BatchingParameters")
        given = {
            field.name: getattr(message, field.name).value
            for field in message.DESCRIPTOR.fields
            if field.message_type and message.HasField(field.name) and field.name in cls.__dataclass_fields__
        }
        parameters = cls(allowed_batch_sizes=tuple(message.allowed_batch_sizes), **given)
        positive = ("max_batch_size", "num_batch_threads", "max_enqueued_batches", "max_execution_batch_size")
        for name in positive:
            if given.get(name, 1) < 1:
                raise invalid_argument(f"{path}: {name} must be at least 1; it is {given[name]}.")
        sizes, largest = parameters.allowed_batch_sizes, parameters.largest
        if largest > parameters.max_batch_size:
            raise invalid_argument(f"{path}: max_execution_batch_size {largest} is above max_batch_size.")
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != largest):
            name = "max_batch_size" if largest == parameters.max_batch_size else "max_execution_batch_size"
            raise invalid_argument(
                f"{path}: allowed_batch_sizes must rise and end with {name}, {largest}; they are {list(sizes)}."
            )
        return parameters
