"""Loads a version as the flags say, and warms it up before anybody can ask it."""

import argparse
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from serving import warmup
from serving.server.models.batching import BatchingParameters
from serving.server.models.bundle import Bundle, SavedModelBundle
from serving.server.models.lite_bundle import MODEL_FILE, LiteBundle
from serving.server.protocol import config_files, example_requests, requests
from serving.server.protocol.errors import StatusError, invalid_argument

BATCHING_FILE = "batching_params.pbtxt"
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Loader:
    """Loads versions.

    Attributes:
      tags: of the MetaGraph.
      batching: None for no batching.
      own_batching: whether each version has parameters of its own, in `batching_params.pbtxt`, or is not batched; the
        number of threads is that of `batching` for all.
      lite_interpreters: of each version with a `model.tflite`, which is taken instead of its SavedModel; 0 for the
        SavedModel always.
      warmup_iterations: how often each warm-up request is replayed; 0 for no warm-up.
    """

    tags: tuple[str, ...]
    session_config: tf.compat.v1.ConfigProto
    batching: BatchingParameters | None
    warmup_iterations: int
    limits: requests.Limits
    own_batching: bool = False
    lite_interpreters: int = 0

    @classmethod
    def of(cls, flags: argparse.Namespace, limits: requests.Limits) -> "Loader":
        """Returns the loader that the flags ask for.

        Raises:
          StatusError: a file of batching parameters or of the session cannot be read, or flags contradict each other.
        """
        file = flags.batching_parameters_file
        if file and not flags.enable_batching:
            raise invalid_argument("--batching_parameters_file is set without --enable_batching.")
        batching = None
        if flags.enable_batching:
            batching = BatchingParameters.read(Path(file)) if file else BatchingParameters()
        iterations = max(1, flags.num_request_iterations_for_warmup) if flags.enable_model_warmup else 0
        return cls(
            tags=tuple(flags.saved_model_tags.split(",")),
            session_config=_session_config(flags),
            batching=batching,
            warmup_iterations=iterations,
            limits=limits,
            own_batching=flags.enable_per_model_batching_parameters,
            lite_interpreters=max(1, flags.num_tflite_pools) if flags.prefer_tflite_model else 0,
        )

    def __call__(self, model: str, path: Path) -> Bundle:
        """Returns a version, loaded and warm.

        Raises:
          StatusError: it cannot be loaded, or does not answer its own warm-up requests.
        """
        bundle: Bundle
        if self.lite_interpreters and (path / MODEL_FILE).exists():
            bundle = LiteBundle(path, self.lite_interpreters)
        else:
            bundle = SavedModelBundle(path, self.tags, self.session_config, self._batching_of(path))
        try:
            if self.warmup_iterations:
                self._warm_up(model, bundle)
        except BaseException:
            bundle.close()
            raise
        return bundle

    def _batching_of(self, path: Path) -> BatchingParameters | None:
        if not self.own_batching or not self.batching:
            return self.batching
        file = path / BATCHING_FILE
        if not file.exists():
            return None
        return dataclasses.replace(BatchingParameters.read(file), num_batch_threads=self.batching.num_batch_threads)

    def _warm_up(self, model: str, bundle: Bundle) -> None:
        servable = requests.Servable(model, 0, bundle.signatures, bundle.plans)
        prepare: dict[str, Callable[[Any], list[requests.PreparedRequest]]] = {
            "predict_log": lambda entry: [requests.prepare_predict(entry.request, servable, self.limits)],
            "classify_log": lambda entry: [example_requests.prepare_classify(entry.request, servable, self.limits)],
            "regress_log": lambda entry: [example_requests.prepare_regress(entry.request, servable, self.limits)],
            "multi_inference_log": lambda entry: [
                (example_requests.prepare_classify if kind == "classify" else example_requests.prepare_regress)(
                    part, servable, self.limits
                )
                for kind, part in example_requests.split_multi(entry.request)
            ],
        }
        try:
            records = warmup.logs(bundle.path)
        except tf.errors.OpError as error:
            raise StatusError("DATA_LOSS", f"{bundle.path / warmup.WARMUP_FILE}: {error.message}") from error
        for record in records:
            kind = record.WhichOneof("log_type")
            if kind not in prepare:
                raise StatusError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {kind}")
            for prepared in prepare[kind](getattr(record, kind)):
                for _ in range(self.warmup_iterations):
                    prepared.reply(prepared.run(bundle))


def _session_config(flags: argparse.Namespace) -> tf.compat.v1.ConfigProto:
    """Returns the session's configuration: its file's, over which the flags go."""
    file, both = flags.tensorflow_session_config_file, flags.tensorflow_session_parallelism
    within, between = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if both and within and between:
        raise invalid_argument(
            "Set --tensorflow_session_parallelism, or --tensorflow_intra_op_parallelism and "
            "--tensorflow_inter_op_parallelism, but not all three."
        )
    config = config_files.read(Path(file), "ConfigProto") if file else tf.compat.v1.ConfigProto()
    config.intra_op_parallelism_threads = both or within or config.intra_op_parallelism_threads
    config.inter_op_parallelism_threads = both or between or config.inter_op_parallelism_threads
    if flags.per_process_gpu_memory_fraction or not file:
        config.gpu_options.allow_growth = not flags.per_process_gpu_memory_fraction
        config.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    return config
