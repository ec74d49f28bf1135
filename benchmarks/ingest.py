"""How long it takes to ingest all 70,000 images of MNIST, and what bounds it.

    python -m benchmarks.ingest [--runs 5] [--home DIR]

In turn, in one process: Conveyor's executor; the plain TFX way, an ExampleGen executor that hands Beam one record at a
time and lets TFX shuffle, compress and write them; and two parts of ours alone, making the records and writing them.
"""

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from benchmarks.measure import show, spread, store
from components.image_example_gen.component import ImageExampleGen
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.executor import Executor, serialize
from components.image_example_gen.readers import Reader, open_readers
from components.image_example_gen.shards import plan
from components.image_example_gen.spans import BASE, Part
from pipeline.data.fetch import fetch
from pipeline.experiments import load
from pipeline.home.folders import Home
from pipeline.run.graph import BEAM_ARGS, INGESTION_ARGS
from trainer import records

DATASET = load("mnist").dataset


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


def run_executor(
    executor: type, data: Path, folder: Path, dataset: Dataset = DATASET, arguments: Sequence[str] = ()
) -> None:
    component = ImageExampleGen(Part(BASE, data, dataset), {}, "")
    properties = {
        name: proto_utils.proto_to_json(value) if hasattr(value, "DESCRIPTOR") else value
        for name, value in component.exec_properties.items()
    }
    examples = standard_artifacts.Examples()
    examples.uri = str(folder)
    context = executor.Context(beam_pipeline_args=[*BEAM_ARGS, *arguments], tmp_dir=str(folder), unique_id="1")
    executor(context).Do({}, {"examples": [examples]}, properties)


def all_records(data: Path) -> list[records.Record]:
    shards = plan(Part(BASE, data, DATASET))
    return [
        record for shard in shards for piece in shard.read(DATASET) for record in serialize(piece.images, piece.labels)
    ]


def write_records(made: list[records.Record], folder: Path) -> None:
    (folder / "Split-all").mkdir()
    records.write(folder / "Split-all" / "records", made)


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
    parser.add_argument("--home")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    data = fetch("mnist", Home.at(options.home).data)
    made = all_records(data)
    works: dict[str, Callable[[Path], Any]] = {
        "conveyor": lambda folder: run_executor(Executor, data, folder, arguments=INGESTION_ARGS),
        "plain TFX": lambda folder: run_executor(PlainExecutor, data, folder),
        "part: make the records": lambda _: all_records(data),
        "part: write the records": lambda folder: write_records(made, folder),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(options.runs + 1):
        for name, work in works.items():
            seconds = timed(work)
            if number:  # the first round warms up
                times[name].append(seconds)
    print(f"MNIST, {len(made):,} images, n = {options.runs}, median and range")
    for name, values in times.items():
        show(name, values)
    ratios = [plain / ours for plain, ours in zip(times["plain TFX"], times["conveyor"], strict=True)]
    show("plain TFX / conveyor", ratios, "x")
    figures = {name: spread(values) for name, values in times.items()}
    store("ingest", __file__, {"images": len(made), "n": options.runs, "seconds": figures, "ratio": spread(ratios)})


if __name__ == "__main__":
    main()
