"""How long it takes to ingest all 70,000 images of MNIST, what bounds it, and what a second core brings.

    python -m benchmarks.ingest [--runs 5] [--pictures 5000] [--home DIR]

In turn: Conveyor's executor; the same on PNG files of 128 x 128 in class folders, which are decoded; the plain TFX way,
an ExampleGen executor that hands Beam one record at a time and lets TFX shuffle, compress and write them; and two parts
of ours alone, making the records and writing them. Each run is a process of its own, on all cores and then, for the
first two, on one; what a process does first is not timed, but what it does again.
"""

import argparse
import dataclasses
import functools
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import PIL.Image
import tensorflow as tf
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from benchmarks.measure import in_a_process, show, spread, store
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.dataset import Dataset, HashedSplits
from components.image_example_gen.executor import Executor, serialize
from components.image_example_gen.readers import Reader, open_readers
from components.image_example_gen.shards import plan
from components.image_example_gen.spans import BASE, Part
from pipeline.beam.runners import DIRECT
from pipeline.data.fetch import fetch
from pipeline.experiments import load
from pipeline.home.folders import Home
from trainer import records

DATASET = load("mnist").dataset
FOLDERS = dataclasses.replace(DATASET, format="folders", splits=HashedSplits())
SIDE = 128  # of a picture in a class folder, in pixels
SCALED = ("conveyor", "class folders")  # what is run on one core too


class PlainExecutor(BaseExampleGenExecutor):
    """The plain way: one Beam element a record, from a transform of the input split's files."""

    def GetInputSourceToExamplePTransform(self) -> Any:  # noqa: N802  TFX's name
        """Returns the transform that TFX asks for."""
        return _read_records


@beam.ptransform_fn
def _read_records(pipeline: beam.Pipeline, exec_properties: dict[str, Any], pattern: str) -> beam.PCollection:
    paths = list(Path(exec_properties["input_base"]).glob(pattern))
    return pipeline | beam.Create(open_readers(paths, DATASET)) | beam.FlatMap(lambda reader: _plain_examples(reader))


def _plain_examples(reader: Reader) -> Iterator[bytes]:
    """Yields the same examples as Conveyor's, made one by one."""
    for image, label in zip(*reader.read(0, len(reader)), strict=True):
        example = tf.train.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(image.tobytes())
        feature["label"].int64_list.value.append(label)
        feature["image_mean"].float_list.value.append(image.mean())
        feature["image_stddev"].float_list.value.append(image.std())
        feature["image_size"].int64_list.value.append(image.size)
        yield example.SerializeToString()


def run_executor(executor: type, data: Path, folder: Path, dataset: Dataset = DATASET, divides: bool = False) -> None:
    component = ImageExampleGen(Part(BASE, data, dataset), {}, "")
    properties = {
        name: proto_utils.proto_to_json(value) if hasattr(value, "DESCRIPTOR") else value
        for name, value in component.exec_properties.items()
    }
    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    make = functools.partial(beam.Pipeline, argv=DIRECT.arguments(divides))
    context = executor.Context(make_beam_pipeline_fn=make, tmp_dir=str(folder), unique_id="1")
    executor(context).Do({}, {"examples": [examples]}, properties)


def all_records(data: Path) -> list[records.Record]:
    shards = plan(Part(BASE, data, DATASET))
    return [
        record for shard in shards for piece in shard.read(DATASET) for record in serialize(piece.images, piece.labels)
    ]


def write_records(made: list[records.Record], folder: Path) -> None:
    (folder / "Split-all").mkdir()
    records.write(folder / "Split-all" / "records", made)


def make_pictures(data: Path, folder: Path, count: int) -> None:
    """Writes digits as PNG files in class folders, enlarged."""
    (reader,) = open_readers([*data.glob(DATASET.splits.patterns["test"])], DATASET)
    for number, (image, label) in enumerate(zip(*reader.read(0, count), strict=True)):
        file = folder / DATASET.classes[label] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image[:, :, 0]).resize((SIDE, SIDE)).save(file)


def measure(data: Path, folders: Path, ways: Sequence[str]) -> dict[str, float]:
    """Times each way in this process, the second time that it is gone."""
    made = all_records(data)
    works: dict[str, Callable[[Path], Any]] = {
        "conveyor": lambda folder: run_executor(Executor, data, folder, DATASET, divides=True),
        "class folders": lambda folder: run_executor(Executor, folders, folder, FOLDERS, divides=True),
        "plain TFX": lambda folder: run_executor(PlainExecutor, data, folder),
        "part: make the records": lambda _: all_records(data),
        "part: write the records": lambda folder: write_records(made, folder),
    }
    return {name: [timed(work) for _ in range(2)][1] for name, work in works.items() if not ways or name in ways}


def timed(work: Callable[[Path], Any]) -> float:
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    work(folder)
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=5000, help="PNG files in class folders, 10,000 at most")
    parser.add_argument("--home")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.child:
        data, folders, *ways = options.child
        print(json.dumps(measure(Path(data), Path(folders), ways)))
        return
    data = fetch("mnist", Home.at(options.home).data)
    cores = len(os.sched_getaffinity(0))
    all_cores, one_core = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folders = Path(scratch)
        make_pictures(data, folders, options.pictures)
        for _ in range(options.runs):
            all_cores.append(in_a_process("ingest", data, folders, cores=cores))
            one_core.append(in_a_process("ingest", data, folders, *SCALED, cores=1))
    times = {name: [run[name] for run in all_cores] for name in all_cores[0]}
    times |= {f"{name}, one core": [run[name] for run in one_core] for name in SCALED}
    images = len(all_records(data))
    print(f"MNIST, {images:,} images; {options.pictures:,} pictures; {cores} cores, n = {options.runs}")
    for name, values in times.items():
        show(name, values)

    def ratio(slow: str, fast: str) -> dict[str, float]:
        values = [theirs / ours for theirs, ours in zip(times[slow], times[fast], strict=True)]
        show(f"{slow} / {fast}", values, "x")
        return spread(values)

    figures = {
        "images": images,
        "pictures": options.pictures,
        "n": options.runs,
        "seconds": {name: spread(values) for name, values in times.items()},
        "ratio": ratio("plain TFX", "conveyor"),
        "scaling": {name: ratio(f"{name}, one core", name) for name in SCALED},
    }
    store("ingest", __file__, figures)


if __name__ == "__main__":
    main()
