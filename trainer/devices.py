"""Chooses what a network is trained on: processors, arithmetic and compilation."""

import dataclasses
from pathlib import Path

import tensorflow as tf

BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA's Ampere, the first whose tensor cores compute in bfloat16


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where and how a training computes.

    Attributes:
      strategy: spreads a batch over the devices.
      precision: `float32` or `mixed_bfloat16`.
      xla: whether the gradients are compiled by XLA, which helps on a GPU and slows a CPU down.
      description: the choice in words, for the person who waits.
    """

    strategy: tf.distribute.Strategy
    precision: str
    xla: bool
    description: str

    @property
    def is_one_cpu(self) -> bool:
        """Whether nothing is spread, and there is no GPU."""
        return not self.xla and self.strategy.num_replicas_in_sync == 1


def choose(precision: str) -> Devices:
    """Returns all GPUs that TensorFlow sees, or the CPU where there is none.

    Args:
      precision: `auto` takes bfloat16 where the hardware computes in it; anything else is taken as it is.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    has_bfloat16 = _gpus_have_bfloat16(gpus) if gpus else _cpu_has_bfloat16(Path("/proc/cpuinfo"))
    if precision == "auto":
        precision = "mixed_bfloat16" if has_bfloat16 else "float32"
    if not gpus:
        return Devices(tf.distribute.get_strategy(), precision, False, f"CPU, {precision}")
    # Where float32 is asked for, it is float32: in TensorFloat-32, which has 10 bits, scores differ from those of the
    # exported model on a processor by more than rounding.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    names = {tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus}
    description = f"{len(gpus)} x {', '.join(sorted(names))}, {precision}"
    return Devices(tf.distribute.MirroredStrategy(), precision, True, description)


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
