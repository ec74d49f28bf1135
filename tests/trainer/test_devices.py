import json

import pytest
import tensorflow as tf

from conveyor.errors import ConfigError
from trainer import devices


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("GenuineIntel", "fpu avx2 avx512_bf16 amx_bf16 amx_tile", True),
        ("GenuineIntel", "fpu avx512f avx512_bf16", False),
        ("AuthenticAMD", "fpu avx512f avx512_bf16", True),
        ("AuthenticAMD", "fpu avx2 avx512f avx512_vnni", False),
    ],
)
def test_bfloat16_where_the_processor_gains_by_it(tmp_path, vendor, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n"
    cpuinfo.write_text(one + one)
    assert devices._cpu_has_bfloat16(cpuinfo) == expected


def test_no_bfloat16_where_nothing_is_known(tmp_path):
    assert not devices._cpu_has_bfloat16(tmp_path / "missing")


def test_precision_asked_for_is_taken():
    chosen = devices.choose("float32")
    assert chosen.precision == "float32"
    assert "float32" in chosen.description


@pytest.fixture
def gpus(monkeypatch):
    """Puts GPUs into the machine: a name and a compute capability, or None, of each."""

    def put(*details):
        known = {f"gpu {number}": dict(detail) for number, detail in enumerate(details)}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(known) if kind == "GPU" else [])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", known.__getitem__)
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grown.__setitem__)
        monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: "mirrored")
        monkeypatch.setattr(tf.config.experimental, "enable_tensor_float_32_execution", short.append)
        return grown

    grown, short = {}, []
    put.tensor_float_32 = short
    return put


A100, T4 = ({"device_name": "A100", "compute_capability": (8, 0)}, {"device_name": "T4", "compute_capability": (7, 5)})


@pytest.mark.parametrize(
    ("details", "precision", "description"),
    [
        ([A100, A100], "mixed_bfloat16", "2 x A100, mixed_bfloat16"),
        ([A100, T4], "float32", "2 x A100, T4, float32"),
        ([{}], "float32", "1 x GPU, float32"),
    ],
)
def test_all_gpus_are_taken_in_the_precision_that_each_computes_in(gpus, details, precision, description):
    grown = gpus(*details)
    chosen = devices.choose("auto")
    assert chosen == devices.Devices("mirrored", precision, True, description)
    assert grown == {f"gpu {number}": True for number in range(len(details))}
    assert gpus.tensor_float_32 == [False]  # in which scores differ from a processor's by more than rounding


def test_without_a_gpu_the_processor_is_taken(gpus, monkeypatch):
    gpus()
    monkeypatch.setattr(devices, "_cpu_has_bfloat16", lambda path: str(path) == "/proc/cpuinfo")
    chosen = devices.choose("auto")
    assert (chosen.precision, chosen.xla, chosen.description) == ("mixed_bfloat16", False, "CPU, mixed_bfloat16")


def config(cluster, kind, index):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("", (1, True)),
        (config({}, "worker", 0), (1, True)),
        (config({"worker": ["a:1", "b:1"]}, "worker", 0), (2, True)),
        (config({"worker": ["a:1", "b:1"]}, "worker", 1), (2, False)),
        (config({"chief": ["c:1"], "worker": ["a:1"]}, "worker", 0), (2, False)),
        (config({"chief": ["c:1"], "worker": ["a:1"]}, "chief", 0), (2, True)),
    ],
)
def test_workers_are_those_that_tf_config_tells_of(told, expected):
    assert devices.workers_of(told) == expected


@pytest.mark.parametrize(
    "told",
    [
        "{",
        "[]",
        "2",
        config({"worker": ["a:1", "b:1"]}, "worker", 2),
        config({"worker": ["a:1"], "ps": ["b:1"]}, "worker", 0),
        config({"worker": ["a:1"]}, "evaluator", 0),
        json.dumps({"cluster": {"worker": ["a:1"]}, "task": {}}),
    ],
)
def test_a_tf_config_that_tells_of_no_workers_is_refused(told):
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        devices.workers_of(told)


def test_a_lost_worker_is_one_sentence(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config({"worker": ["a:1", "b:1"]}, "worker", 0))
    with pytest.raises(devices.WorkerLost, match="Another worker of the training is gone"), devices.loss_told():
        raise tf.errors.UnavailableError(None, None, "Collective ops is aborted by: ...")
