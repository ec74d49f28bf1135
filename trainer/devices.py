"""Chooses what a network is trained on: processors, workers, arithmetic and compilation."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from conveyor.errors import ConfigError, ConveyorError
from conveyor.words import counted

BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA's Ampere, the first whose tensor cores compute in bfloat16


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where and how a training computes.

    Attributes:
      strategy: spreads a batch over the devices.
      precision: `float32` or `mixed_bfloat16`.
      xla: whether the gradients are compiled by XLA, which helps on a GPU and slows a CPU down.
      description: the choice in words, for the person who waits.
      workers: how many processes train together.
      is_chief: whether this one writes and says what comes of the training, which one of them does.
    """

    strategy: tf.distribute.Strategy
    precision: str
    xla: bool
    description: str
    workers: int = 1
    is_chief: bool = True

    @property
    def is_one_cpu(self) -> bool:
        """Whether nothing is spread, and there is no GPU."""
        return not self.xla and self.strategy.num_replicas_in_sync == 1

    def wait_for_all(self) -> None:
        """Returns when all workers have come here."""
        self.agree_on(0)

    def agree_on(self, number: int) -> bool:
        """Returns, when all workers have come here, whether they have the same number; at least one learns if not."""
        return self.workers == 1 or _sum(self.strategy, [number])[0] == number * self.strategy.num_replicas_in_sync

    def of_chief(self, values: Sequence[float]) -> list[float]:
        """Returns the chief's values to every worker, when all have come here: what is decided by them is the same."""
        if self.workers == 1:
            return list(values)
        local = self.strategy.num_replicas_in_sync // self.workers
        return [value / local for value in _sum(self.strategy, values if self.is_chief else [0.0] * len(values))]


class WorkerLost(ConveyorError):
    """Another worker of the training is gone; it goes on from its last checkpoint when all are begun anew."""

    exit_code = os.EX_TEMPFAIL


@contextlib.contextmanager
def loss_told() -> Iterator[None]:
    """Raises a `WorkerLost` where an operation of the block waits for a worker that is gone."""
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if "TF_CONFIG" not in os.environ:
            raise
        raise WorkerLost("Another worker of the training is gone. Run again to continue.") from error


def choose(precision: str) -> Devices:
    """Returns all GPUs that TensorFlow sees, or the CPU where there is none.

    Of several workers, which `TF_CONFIG` tells of, it returns those of all, when all have come here.

    Args:
      precision: `auto` takes bfloat16 where the hardware of all workers computes in it; anything else is taken as it
        is.

    Raises:
      ConfigError: `TF_CONFIG` tells of something else than workers.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    workers, is_chief = workers_of(os.environ.get("TF_CONFIG", ""))
    if workers > 1:
        strategy: tf.distribute.Strategy = _strategy_over_workers(gpus)
    else:
        strategy = tf.distribute.MirroredStrategy() if gpus else tf.distribute.get_strategy()
    if precision == "auto":
        has_bfloat16 = _gpus_have_bfloat16(gpus) if gpus else _cpu_has_bfloat16(Path("/proc/cpuinfo"))
        have_all = has_bfloat16 if workers == 1 else _sum(strategy, [has_bfloat16])[0] == strategy.num_replicas_in_sync
        precision = "mixed_bfloat16" if have_all else "float32"
    if gpus:
        # Where float32 is asked for, it is float32: in TensorFloat-32, which has 10 bits, scores differ from those of
        # the exported model on a processor by more than rounding.
        tf.config.experimental.enable_tensor_float_32_execution(False)
    of_each = f"{counted(workers, 'worker')}, each with " if workers > 1 else ""
    return Devices(strategy, precision, bool(gpus), f"{of_each}{_named(gpus)}, {precision}", workers, is_chief)


def _named(gpus: list[tf.config.PhysicalDevice]) -> str:
    names = {tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus}
    return f"{len(gpus)} x {', '.join(sorted(names))}" if gpus else "CPU"


def workers_of(config: str) -> tuple[int, bool]:
    """Returns how many workers a `TF_CONFIG` tells of, and whether this is their chief; without one, this is alone.

    Raises:
      ConfigError: it is no JSON, or has tasks of other kinds.
    """
    try:
        told = json.loads(config or "{}")
        tasks = {kind: list(addresses) for kind, addresses in told.get("cluster", {}).items()}
        task = told.get("task", {"type": "worker", "index": 0})
        kind, index = task["type"], int(task["index"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(f"TF_CONFIG is not what TensorFlow documents: {config}") from None
    if not {*tasks} <= {"chief", "worker"} or (tasks and index not in range(len(tasks.get(kind, ())))):
        raise ConfigError(f"TF_CONFIG must tell of a chief and workers alone, and which of them this is: {config}")
    return max(1, sum(map(len, tasks.values()))), kind == "chief" or ("chief" not in tasks and index == 0)


def _strategy_over_workers(gpus: list[Any]) -> tf.distribute.Strategy:
    """Returns a strategy over the workers of `TF_CONFIG`, when all are there; on processors, it adds up in a ring."""
    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
    hosts = {address.rpartition(":")[0] for addresses in cluster.values() for address in addresses}
    # gRPC asks a proxy, which `http_proxy` names, and that does not reach them.
    os.environ["no_grpc_proxy"] = ",".join(sorted(hosts))  # noqa: SIM112
    on_sigterm = signal.getsignal(signal.SIGTERM)
    kinds = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(implementation=kinds.AUTO if gpus else kinds.RING)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    signal.signal(signal.SIGTERM, on_sigterm)  # TensorFlow has taken the signal, and does nothing when it comes
    return strategy


def _sum(strategy: tf.distribute.Strategy, values: Sequence[float]) -> list[float]:
    """Returns the sums of the values of all replicas, when all workers have come here."""
    return [float(value) for value in _adder(strategy, len(values))(tf.constant(values, tf.float64))]


@functools.lru_cache
def _adder(strategy: tf.distribute.Strategy, count: int) -> Any:
    """Returns a function of so many values, which is traced once."""

    @tf.function(input_signature=[tf.TensorSpec([count], tf.float64)], autograph=False)
    def added(own: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: tf.identity(own)), axis=None)

    return added


def _gpus_have_bfloat16(gpus: list[tf.config.PhysicalDevice]) -> bool:
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return all(detail.get("compute_capability", (0, 0)) >= BFLOAT16_CAPABILITY for detail in details)


def _cpu_has_bfloat16(cpuinfo: Path) -> bool:
    """Whether the processor multiplies faster in bfloat16 than in float32; on many, oneDNN would only emulate it.

    AMX multiplies sixteen times as many at once. AVX512-BF16 does on AMD's processors; on Intel's it is no wider than
    float32, and the tutorial's networks took 1.4 and 1.7 times as long in it.
    """
    if not cpuinfo.exists():
        return False
    about = dict(line.partition(":")[::2] for line in reversed(cpuinfo.read_text().splitlines()))
    fields = {name.strip(): value.strip() for name, value in about.items()}
    flags = fields.get("flags", "").split()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and fields.get("vendor_id") == "AuthenticAMD")
