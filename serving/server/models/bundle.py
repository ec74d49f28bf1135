"""What is loaded of a version: a SavedModel in a Session, by the loader that TensorFlow Serving uses."""

import abc
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.server.models.batching import BatchingParameters
from serving.server.protocol.errors import StatusError, invalid_argument, of_tensorflow
from serving.server.protocol.requests import SignaturePlan

Call = Callable[..., list[np.ndarray]]  # of the inputs, in the order of their sorted names
INTERNAL = "__saved_model"  # what the names of a SavedModel's own signatures begin with
FRAGILE = {
    "CombinedNonMaxSuppression", "DrawBoundingBoxes", "DrawBoundingBoxesV2", "EncodePng",
    "FakeQuantWithMinMaxVarsPerChannel", "LSTMBlockCell", "SoftmaxCrossEntropyWithLogits",
}  # fmt: skip


class Bundle(abc.ABC):
    """One loaded version of a model.

    Attributes:
      path: its folder.
      signatures: SignatureDef by name.
      plans: the same for the checks of every request.
      batching: how requests are joined to batches; None for not at all.
    """

    path: Path
    signatures: dict[str, meta_graph_pb2.SignatureDef]
    plans: dict[str, SignaturePlan]
    batching: BatchingParameters | None = None

    def batching_of(self, name: str) -> BatchingParameters | None:
        """Returns how requests to a signature are joined; None for what is none, or has no rows to join."""
        plan = self.plans.get(name)
        return self.batching if plan and plan.has_rows else None

    @abc.abstractmethod
    def run(self, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[str] = ()) -> list[np.ndarray]:
        """Runs a signature.

        Args:
          name: the signature's name.
          inputs: in the order of the signature's inputs sorted by name.
          outputs: the outputs that are wanted, sorted; empty for all.

        Returns:
          The outputs, in that order.

        Raises:
          StatusError: TensorFlow's own, such as INVALID_ARGUMENT for a shape that does not fit.
        """

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

    @abc.abstractmethod
    def run_tensors(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        """Runs tensors by their names, as SessionRun does.

        Args:
          feeds: values by tensor name, of inputs of signatures.
          fetches: names of tensors that are outputs of signatures.

        Raises:
          StatusError: UNIMPLEMENTED, where there is no graph; TensorFlow's own.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the model. No call may be running."""


class SavedModelBundle(Bundle):
    """A SavedModel in a Session."""

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
          batching: how requests to it are to be joined; None for not at all.

        Raises:
          StatusError: the loader refuses it.
        """
        self.path = path
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=session_config)
        self._call: Callable[..., Call] = functools.lru_cache(maxsize=64)(self._new_call)
        try:
            with self._session.graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
        except tf.errors.OpError as error:
            self.close()
            raise of_tensorflow(error) from error
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            self.close()
            raise StatusError("NOT_FOUND" if isinstance(error, OSError) else "INTERNAL", str(error)) from error
        # Copies: a part of a message keeps the whole of it, which is the graph.
        self.signatures = {name: _copy(signature) for name, signature in loaded.signature_def.items()}
        self.plans = {
            name: SignaturePlan.of(signature)
            for name, signature in self.signatures.items()
            if not name.startswith(INTERNAL)  # such as the operation that initialises the model: no request's matter
        }
        self._shapes = {
            info.name: None if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim]
            for name in self.plans
            for info in self.signatures[name].inputs.values()
        }
        self._strict = _may_end_the_process(loaded.meta_info_def.stripped_op_list)
        self.batching = batching

    def run(self, name: str, inputs: Sequence[np.ndarray], outputs: Sequence[str] = ()) -> list[np.ndarray]:
        """See `Bundle.run`."""
        plan = self.plans[name]
        try:
            self._check_shapes(zip(plan.feeds, inputs, strict=True))
            with _failures():
                return self._call(plan.feeds, tuple([plan.fetches[key] for key in outputs or plan.outputs]))(*inputs)
        except StatusError as error:
            # Many kernels cannot run on no rows, and say it in words of their own.
            if inputs and all(value.ndim and not len(value) for value in inputs):
                raise StatusError(error.code, f"The request has no rows: {error.message}") from error
            raise

    def run_tensors(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        """See `Bundle.run_tensors`."""
        self._check_shapes(feeds.items())
        with _failures():
            return self._call(tuple(feeds), tuple(fetches))(*feeds.values())

    def close(self) -> None:
        """See `Bundle.close`."""
        self._call = self._new_call
        self._session.close()

    def _check_shapes(self, fed: Iterable[tuple[str, np.ndarray]]) -> None:
        """Refuses shapes on which a kernel may end the process; see `_may_end_the_process`.

        Raises:
          StatusError: INVALID_ARGUMENT.
        """
        for name, value in fed:
            shape = self._shapes[name]
            if shape is None:
                wrong = self._strict and not value.ndim
            else:
                wrong = not _fits(value.shape, shape) if self._strict else bool(shape) and not value.ndim
            if wrong:
                wanted = "a shape with rows" if shape is None else f"the shape {shape}"
                raise invalid_argument(f"{name} must have {wanted}; {list(value.shape)} is given.")

    def _new_call(self, feeds: Sequence[str], fetches: Sequence[str]) -> Call:
        """Returns a call of TensorFlow's C++ session, as TensorFlow Serving makes it.

        Python's own checks static shapes, which the C++ session does not: a model whose input is [None, 1] takes [3].
        """
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        call = self._session._make_callable_from_options(options)
        return lambda *values: [_array(value) for value in call(*values)]


def _copy(signature: meta_graph_pb2.SignatureDef) -> meta_graph_pb2.SignatureDef:
    copied = meta_graph_pb2.SignatureDef()
    copied.CopyFrom(signature)
    return copied


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Turns TensorFlow's failures into ours."""
    try:
        yield
    except tf.errors.OpError as error:
        raise of_tensorflow(error) from error
    except UnicodeDecodeError as error:  # of TensorFlow's own words, where they quote bytes of the request
        raise invalid_argument(error.object.decode(errors="replace")) from error
    except (TypeError, ValueError) as error:
        raise invalid_argument(str(error)) from error


def _may_end_the_process(used: op_def_pb2.OpList) -> bool:
    """Whether a graph has operations whose kernels end the process on a tensor of another rank, and do not fail.

    Those are convolutions, pooling and others with a layout, and some that were found by trying. What asks such a graph
    must have the shape that its signature says. Most of them do it on a scalar, which no graph takes in place of rows.

    Args:
      used: the operations that a SavedModel says it has, also within functions; of one that says nothing, any may be.
    """
    return not used.op or any(
        operation.name in FRAGILE or any(attribute.name == "data_format" for attribute in operation.attr)
        for operation in used.op
    )


def _array(value: Any) -> np.ndarray:
    """Returns an output as an array: of a scalar string TensorFlow makes bytes, whose zeros at the end NumPy drops."""
    return np.array(value, dtype=object) if isinstance(value, bytes) else value


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in zip(shape, wanted, strict=True))
