"""How near a training step comes to what the processor can do, and what the same step takes elsewhere.

    python -m benchmarks.training [--networks mnist cifar10] [--steps 60] [--runs 5] [--torch PYTHON] [--isa AVX2]

For each of the tutorial's networks, in turn and each time in a process of its own: Conveyor's trainer; the same without
oneDNN and without a compiled optimizer; plain `model.fit` of the same function, as it comes and with
`jit_compile=False`; and PyTorch, where --torch names a Python that has it. The trainer's process also measures a large
matrix product and a large convolution in the same precision. Last, a whole trainer's process: from its start to the end
of its first step, and from its last step to its end.

--isa tells oneDNN to keep to the instructions of older processors, and so imitates one: XLA and PyTorch's other
libraries do not. PyTorch computes in float32, the others in the trainer's precision. The data are noise: what is in
them costs nothing.
"""

import argparse
import dataclasses
import json
import math
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import in_a_process, last_line, spread, store
from pipeline.experiments import load

IMAGES = 2_000
INPUT_TIMES = 10  # as many batches are read to measure the input alone as steps are timed
PLAIN = "conveyor, plain TensorFlow"
PEER = Path(__file__).with_name("torch_peer.py")
PRODUCT = 2_048  # rows and columns of the large product's matrices
CONVOLUTION = (128, 32, 32, 64)  # inputs of the large convolution, 5 x 5, to as many channels


def floating_point_operations(model: Any, batch: int) -> int:
    """Returns the operations of a step in convolutions and products: two for each multiplication.

    Backwards, a layer costs as much again for its weights, and again for its inputs; the first layer has no gradient of
    its inputs.
    """
    from keras import layers

    operations, passes = 0, 2
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Conv2D):
            positions = math.prod(layer.output.shape[1:3])
        elif isinstance(layer, layers.Dense):
            positions = 1
        else:
            continue
        operations += passes * 2 * math.prod(layer.kernel.shape) * positions * batch
        passes = 3
    return operations


def noise(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of an experiment's shape."""
    random, dataset = np.random.default_rng(1), load(name).dataset
    images = random.integers(0, 256, (IMAGES, *dataset.shape), np.uint8)
    return images, random.integers(0, len(dataset.classes), IMAGES)


def write_examples(folder: Path, name: str, splits: Sequence[str]) -> None:
    """Writes the noise as examples, as the ingestion does, for each of some splits."""
    from components.image_example_gen.executor import serialize
    from trainer import records

    for split in splits:
        file = folder / f"Split-{split}" / "data"
        file.parent.mkdir(parents=True)
        records.write(file, serialize(*noise(name)))


def conveyor(name: str, steps: int, compiles: bool = True) -> dict[str, Any]:
    """Times the trainer's own loop, its input alone, and the processor's limits, in this process."""
    import tensorflow as tf

    from trainer import devices, examples, loop, networks
    from trainer import steps as trainer_steps

    tf.config.experimental.enable_op_determinism()  # as the trainer does
    experiment = load(name)
    every = {"log_every": steps, "eval_every": 3 * steps, "checkpoint_every": 3 * steps}
    training = dataclasses.replace(experiment.training, steps=3 * steps, **every)
    job = dataclasses.replace(experiment.training_job(), training=training)
    chosen = devices.choose(training.precision)
    marks: list[float] = []  # when the steps 0, `steps`, 2 `steps` and 3 `steps` were told of
    trainer_steps.COMPILED_FROM = 1 if compiles else sys.maxsize  # 1: as of the whole recipe
    with tempfile.TemporaryDirectory() as scratch:
        write_examples(Path(scratch), name, ["train"])
        split = examples.read_split(Path(scratch, "Split-train"), job.pictures)
        folders = [Path(scratch, kind) for kind in ("checkpoints", "logs")]
        loop.train(job, chosen, split, None, *folders, lambda _: marks.append(time.perf_counter()))
        order = examples.ShuffledOrder(len(split), training.batch_size, steps * INPUT_TIMES, training.seed)
        batches = examples.batches(split, order)
        count = tf.function(lambda: batches.reduce(np.int64(0), lambda number, _: number + 1))
        count()  # traces it
        started = time.perf_counter()
        count()
        input_seconds = (time.perf_counter() - started) / len(order)
    return {
        "seconds": [(marks[2] - marks[1]) / steps, (marks[3] - marks[2]) / steps],
        "input": input_seconds,
        "operations": floating_point_operations(networks.build(job, "float32"), training.batch_size),
        "precision": chosen.precision,
        "limits": limits("bfloat16" if "bfloat16" in chosen.precision else "float32"),
    }


def limits(precision: str) -> dict[str, float]:
    """Returns operations a second of a large matrix product and of a large convolution, forwards."""
    import tensorflow as tf

    random = tf.random.Generator.from_seed(1)
    matrix = tf.cast(random.normal((PRODUCT, PRODUCT)), precision)
    images = tf.cast(random.normal(CONVOLUTION), precision)
    kernel = tf.cast(random.normal((5, 5, CONVOLUTION[-1], CONVOLUTION[-1])), precision)
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix))
    convolution = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))
    return {
        "product": 2 * PRODUCT**3 / _seconds(product),
        "convolution": 2 * math.prod(kernel.shape) * math.prod(CONVOLUTION[:3]) / _seconds(convolution),
    }


def _seconds(call: Callable[[], Any], times: int = 9) -> float:
    """Returns the median time of a call."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        call().numpy()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def fit(name: str, steps: int, jit_compile: bool | str) -> dict[str, Any]:
    """Times `model.fit` of an experiment's function, in this process."""
    import keras
    import tensorflow as tf

    from trainer import devices

    experiment = load(name)
    images, labels = noise(name)
    network, classes = experiment.network, len(experiment.dataset.classes)
    keras.config.set_dtype_policy(devices.choose(experiment.training.precision).precision)  # as `conveyor` has it
    model = network.build(experiment.dataset.shape, classes, **network.parameters)
    model.compile(model.optimizer, model.loss, jit_compile=jit_compile)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(IMAGES).repeat()
    data = data.batch(experiment.training.batch_size).prefetch(tf.data.AUTOTUNE)
    marks: list[float] = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: marks.append(time.perf_counter()))
    model.fit(data, steps_per_epoch=steps, epochs=3, verbose=0, callbacks=[note])
    return {"seconds": [(marks[1] - marks[0]) / steps, (marks[2] - marks[1]) / steps]}


def trainer(name: str) -> dict[str, float]:
    """Times a whole trainer's process, from its start to the end of its first step, and from its last to its end."""
    from conveyor.settings import to_json
    from trainer.settings import SPEC, TrainingSpec
    from trainer.steps import COMPILED_FROM

    job = load(name).training_job()

    def run(folder: Path, steps: int) -> Callable[[], subprocess.Popen[str]]:
        (folder / "run").mkdir(parents=True)
        training = dataclasses.replace(job.training, steps=steps, log_every=1)
        places = {kind: str(folder / kind) for kind in ("run", "checkpoints", "model")}
        examples = str(folder.parent)
        spec = TrainingSpec(
            job=dataclasses.replace(job, training=training),
            examples=examples,
            train=(examples,),
            spans={},
            initial=None,
            **places,
        )
        (folder / "run" / SPEC).write_text(to_json(spec))
        command = [sys.executable, "-u", "-m", "trainer", str(folder / "run" / SPEC)]  # lines come when they are made
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": None}
        return lambda: subprocess.Popen(command, **pipes, text=True)

    def first_step(process: subprocess.Popen[str]) -> float:
        assert process.stdout is not None  # it is a pipe
        if not any(line.startswith("step 1,") for line in process.stdout):
            sys.exit("the trainer failed: see above")
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as scratch:
        write_examples(Path(scratch), name, ["train", "eval", "test"])
        started, process = time.perf_counter(), run(Path(scratch, "long"), COMPILED_FROM)()
        start = first_step(process) - started
        process.send_signal(signal.SIGTERM)
        process.wait()
        process = run(Path(scratch, "short"), 1)()
        ended = first_step(process)
        if process.wait():  # and keeps its standard input open, whose end would end it
            sys.exit("the trainer failed: see above")
        return {"start": start, "end": time.perf_counter() - ended}


WAYS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "conveyor": conveyor,
    PLAIN: lambda name, steps: conveyor(name, steps, compiles=False),
    "model.fit": lambda name, steps: fit(name, steps, "auto"),
    "model.fit without XLA": lambda name, steps: fit(name, steps, False),
}
TORCH = "PyTorch"


def _in_a_process(way: str, name: str, steps: int, torch: str | None, environment: Mapping[str, str]) -> dict[str, Any]:
    if way == TORCH:
        return last_line([str(torch), str(PEER), name, str(steps)], environment=environment)
    plain = {"TF_ENABLE_ONEDNN_OPTS": "0"} if way == PLAIN else {}
    return in_a_process("training", way, name, steps, environment={**environment, **plain})


def measure(
    name: str, ways: Sequence[str], steps: int, runs: int, torch: str | None, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Measures one network's step, the ways in turn."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            found[way].append(_in_a_process(way, name, steps, torch, environment))
    step = {way: [statistics.median(one["seconds"]) for one in ones] for way, ones in found.items()}
    own = found["conveyor"]
    rates = [one["operations"] / seconds for one, seconds in zip(own, step["conveyor"], strict=True)]
    figures = {
        "operations": own[0]["operations"],
        "precision": own[0]["precision"],
        "milliseconds": {way: spread([1000 * each for each in values]) for way, values in step.items()},
        "ratio": {
            way: spread([theirs / ours for theirs, ours in zip(step[way], step["conveyor"], strict=True)])
            for way in ways
        },
        "rate": spread(rates),
        "limits": {kind: spread([one["limits"][kind] for one in own]) for kind in own[0]["limits"]},
        "of_limit": {
            kind: spread([rate / one["limits"][kind] for rate, one in zip(rates, own, strict=True)])
            for kind in own[0]["limits"]
        },
        "input": spread([one["input"] / seconds for one, seconds in zip(own, step["conveyor"], strict=True)]),
    }
    about = " ".join((f"{figures['operations'] / 1e9:.1f} GF a step, {figures['precision']}", *environment.values()))
    print(f"{name}, {about}")
    for way, value in figures["milliseconds"].items():
        ratio = figures["ratio"][way]
        range_ = f"{value['min']:.1f} to {value['max']:.1f}"
        print(f"  {way:<28} {value['median']:8.1f} ms   {range_}   x {ratio['median']:.2f}")
    for kind, value in figures["limits"].items():
        share = figures["of_limit"][kind]["median"]
        print(f"  of a large {kind:<17} {100 * share:8.0f} %    of {value['median'] / 1e9:.0f} GF/s")
    print(f"  {'input':<28} {100 * figures['input']['median']:8.1f} % of a step", flush=True)
    if TORCH in ways:
        figures["torch"] = found[TORCH][0]["version"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mnist", "cifar10"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--torch", metavar="PYTHON", help="a Python with PyTorch, to measure that beside it")
    parser.add_argument("--isa", nargs="+", default=[], help="measure as on such processors too: AVX2")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, name, steps = options.child
        print(json.dumps(WAYS[way](name, int(steps))))
        return
    ways = [*WAYS, *([TORCH] if options.torch else [])]
    networks = {}
    for isa in ("", *options.isa):
        environment = {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
        for name in options.networks:
            title = f"{name}, {isa}" if isa else name
            networks[title] = measure(name, ways, options.steps, options.runs, options.torch, environment)
    processes = {}
    for name in options.networks:
        found = [trainer(name) for _ in range(options.runs)]
        processes[name] = {part: spread([one[part] for one in found]) for part in found[0]}
        for part, seconds in processes[name].items():
            print(f"{name}, the trainer's {part:<20} {seconds['median']:8.1f} s", flush=True)
    figures = {"n": options.runs, "steps": options.steps, "networks": networks, "processes": processes}
    store("training", __file__, figures)


if __name__ == "__main__":
    main()
