"""A SavedModel in a Session, loaded by the loader that TensorFlow Serving uses."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving.server.models.batching import BatchingParameters, batched
from serving.server.protocol.errors import StatusError, invalid_argument, of_tensorflow
from serving.server.protocol.requests import SignaturePlan

Call = Callable[..., list[np.ndarray]]  # of the inputs, in the order of their sorted names
INTERNAL = "__saved_model"  # what the names of a SavedModel's own signatures begin with
log = logging.getLogger(__name__)


class Bundle:
    """One loaded version of a model.

    Attributes:
      path: folder of the SavedModel.
      signatures: SignatureDef by name.
      plans: the same for the checks of every request.
    """

    def __init__(
        self,
        path: Path,
        tags: Sequence[str] = (tf.saved_model.SERVING,),
        session_config: tf.compat.v1.ConfigProto | None = None,
        batching: BatchingParameters | None = None,
    ) -> None:
        """Loads a SavedModel.

        Args:
          path: folder of the SavedModel.
          tags: of the MetaGraph to load.
          session_config: a tf.compat.v1.ConfigProto.
          batching: how to batch across calls; None for no batching.

        Raises:
          StatusError: the loader refuses it.
        """
        self.path = path
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=session_config)
        try:
            with self._session.graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
        except tf.errors.OpError as error:
            self.close()
            raise of_tensorflow(error) from error
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            self.close()
            raise StatusError("NOT_FOUND" if isinstance(error, OSError) else "INTERNAL", str(error)) from error
        self.signatures = dict(loaded.signature_def)
        self.plans = {
            name: SignaturePlan.of(signature)
            for name, signature in self.signatures.items()
            if not name.startswith(INTERNAL)  # such as the operation that initialises the model: no request's matter
        }
        self._call: Callable[[str, tuple[str, ...]], Call] = functools.lru_cache(maxsize=64)(self._new_call)
        self._batching = batching
        self._batched = self._batched_calls(batching) if batching else {}

    def max_batch_size(self, name: str) -> int:
        """Returns the most rows of a signature's batches; 0 where it is not batched."""
        return self._batching.max_batch_size if self._batching and name in self._batched else 0

    @property
    def batch_threads(self) -> int:
        """How many batches run at once."""
        return self._batching.num_batch_threads if self._batching else 0

    def run(
        self, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[str] = (), alone: bool = False
    ) -> list[np.ndarray]:
        """Runs a signature.

        Args:
          name: the signature's name.
          inputs: in the order of the signature's inputs sorted by name.
          outputs: the outputs that are wanted, sorted; empty for all.
          alone: keeps it out of batches.

        Returns:
          The outputs, in that order.

        Raises:
          StatusError: TensorFlow's own, such as INVALID_ARGUMENT for a shape that does not fit.
        """
        try:
            if name in self._batched and not alone:
                return self._run_batched(name, inputs, outputs)
            return self._call(name, tuple(outputs))(*inputs)
        except tf.errors.OpError as error:
            raise of_tensorflow(error) from error
        except (TypeError, ValueError) as error:
            raise invalid_argument(str(error)) from error

    def ask(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns all outputs of a signature by name, for its inputs by name.

        Raises:
          StatusError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for other inputs than its own.
        """
        plan = self.plans.get(name)
        if plan is None:
            raise StatusError("FAILED_PRECONDITION", f"there is no signature {name!r}, only {sorted(self.plans)}")
        if set(inputs) != set(plan.inputs):
            raise invalid_argument(f"{name} takes {sorted(plan.inputs)}, not {sorted(inputs)}")
        return dict(zip(plan.outputs, self.run(name, [inputs[key] for key in plan.inputs]), strict=True))

    def close(self) -> None:
        """Frees the model. No call may be running."""
        self._call = self._new_call
        self._batched = {}
        self._session.close()

    def _run_batched(self, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        if any(value.ndim == 0 for value in inputs):
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        if len({len(value) for value in inputs}) > 1:
            raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
        try:
            replies = self._batched[name](*inputs)
        except (tf.errors.InvalidArgumentError, tf.errors.InternalError):
            # A batch fails as a whole. Alone, a good request is answered, and a bad one learns what is wrong with it.
            return self._call(name, tuple(outputs))(*inputs)
        if not outputs:
            return replies
        return [reply for key, reply in zip(self.plans[name].outputs, replies, strict=True) if key in outputs]

    def _new_call(self, name: str, outputs: tuple[str, ...]) -> Call:
        signature = self.signatures[name]
        fetches = [signature.outputs[key].name for key in outputs or sorted(signature.outputs)]
        return self._callable([signature.inputs[key].name for key in sorted(signature.inputs)], fetches)

    def _callable(self, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
        """Returns a call of TensorFlow's C++ session, as TensorFlow Serving makes it.

        Python's own checks static shapes, which the C++ session does not: a model whose input is [None, 1] takes [3].
        """
        return self._session._make_callable_from_options(config_pb2.CallableOptions(feed=feeds, fetch=fetches))

    def _batched_calls(self, parameters: BatchingParameters) -> dict[str, Call]:
        calls = {}
        for name in self.plans:
            try:
                placeholders, replies = batched(self._session.graph, self.signatures[name], name, parameters)
                calls[name] = self._callable([each.name for each in placeholders], [each.name for each in replies])
            except (StatusError, ValueError, KeyError) as error:
                log.warning("%s: signature %s is served without batching: %s", self.path, name, error)
        return calls
