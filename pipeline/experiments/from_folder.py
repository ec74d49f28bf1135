"""Makes an experiment of a folder of pictures: its classes, a small network, and as much training as they need."""

import collections
import math
import re
import unicodedata
from pathlib import Path

from components.image_example_gen import spans
from components.image_example_gen.dataset import Dataset, HashedSplits, NamedSplits
from conveyor.errors import ConfigError, storage_errors
from conveyor.settings import settings
from pipeline.experiments.built_in import small_resnet
from pipeline.experiments.config import Choice, Experiment, Gate, Network, Range, Serving, Training, Tuning

SIDE = 32  # pixels: what two cores train in minutes
LARGEST_SIDE = 64  # pixels: where all pictures have one size, and it is no larger, it is theirs
BATCH = 64
EPOCHS = 20
STEPS = (300, 10_000)  # at least, at most
FEWER_MISTAKES = 0.9  # of those that an answer makes that is always the most frequent class
TUNING = Tuning({"network.width": Choice((8, 16, 32)), "network.learning_rate": Range(5e-4, 1e-2, log=True)})
GREY = ("1", "L", "LA", "I", "I;16", "I;16B")  # as Pillow calls pictures without colours
SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "eval": ("val", "valid", "validation", "eval")}


@settings("definition")
class FolderExperiment:
    """What a folder of pictures decides of its experiment.

    Attributes:
      dataset: the pictures.
      training: how long the network is trained.
      gate: what a model must reach.
    """

    dataset: Dataset
    training: Training
    gate: Gate

    @property
    def experiment(self) -> Experiment:
        """The whole experiment, which has the name of its data set, and the network of `built_in.small_resnet`."""
        name = self.dataset.name
        return Experiment(
            name=name,
            dataset=self.dataset,
            network=Network(small_resnet.build),
            training=self.training,
            gate=self.gate,
            serving=Serving(model_name=name),
            tuning=TUNING,
        )


def experiment_of(folder: Path) -> FolderExperiment:
    """Returns the experiment of the pictures in `<class>/`, or in `train/<class>/` and `test/<class>/`.

    Headers of pictures are read, and none is decoded. Images are 32 x 32 pixels, unless all pictures have one size of
    at most 64 x 64; they have one channel where no picture has colours. The network is trained for 20 epochs, and must
    make a tenth fewer mistakes than an answer that is always the most frequent class.

    Args:
      folder: the pictures. The experiment is named after it.

    Raises:
      ConfigError: there are not two classes of pictures in it, or its name is none for an experiment.
    """
    if not folder.is_dir():
        raise ConfigError(f"--data {folder}: there is no such folder.")
    plain = unicodedata.normalize("NFKD", folder.resolve().name)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", "".join(c for c in plain if not unicodedata.combining(c))).strip("-_")[:100]
    if not name:
        raise ConfigError(f"--data {folder}: the folder's name has no letter or digit that could name an experiment.")
    with storage_errors(f"The folder {folder} cannot be read"):
        named = _named_splits(folder)
        by_class = _pictures(folder / named["train"] if named else folder)
        judged = _pictures(folder / named["test"]) if named else by_class  # what the gate will be measured on
    if len(by_class) < 2:
        found = f"one ({next(iter(by_class))})" if by_class else "none"
        raise ConfigError(
            f"--data {folder}: expected a folder for each class with its pictures, CLASS/*.jpg, or train/CLASS/*.jpg "
            f"and test/CLASS/*.jpg; of classes, found {found}. Other files, such as IDX pairs, need an experiment file."
        )
    count = sum(map(len, by_class.values()))
    return FolderExperiment(
        dataset=Dataset(
            name=name,
            format="folders",
            shape=_shape(by_class),
            classes=tuple(by_class),
            splits=_splits(named, count, min(map(len, by_class.values()))),
            resize="pad",
        ),
        training=_training(count if named else round(0.75 * count)),
        gate=Gate(min_accuracy=_fewer_mistakes(judged)),
    )


def _fewer_mistakes(by_class: dict[str, list[Path]]) -> float:
    """Returns the accuracy of a tenth fewer mistakes than the most frequent class makes, rounded up to millionths."""
    counts = list(map(len, by_class.values()))
    mistakes = 1 - max(counts, default=0) / max(1, sum(counts))
    return 1 - math.floor(FEWER_MISTAKES * mistakes * 1e6 + 1e-6) / 1e6


def unused_folders(folder: Path) -> list[str]:
    """Returns the folders in a folder of pictures that are not used, and why, in words."""
    with storage_errors(f"The folder {folder} cannot be read"):
        named = _named_splits(folder)
        there = sorted(path for path in folder.iterdir() if path.is_dir())
        visible = [path.name for path in there if not path.name.startswith(".") and spans.order(path.name) is None]
        if named:
            beside = f"beside {named['train']} and {named['test']}"
            return [f"{name} ({beside})" for name in visible if name not in named.values()]
        used = _pictures(folder)
    return [f"{name} (no picture in it)" for name in visible if name not in used]


def _named_splits(folder: Path) -> dict[str, str]:
    """Returns the folder of each split, where there are folders of both train and test."""
    there = {path.name.lower(): path.name for path in folder.iterdir() if path.is_dir()}
    found = {split: there[name] for split, names in SPLITS.items() for name in names if name in there}
    return found if {"train", "test"} <= found.keys() else {}


def _splits(named: dict[str, str], count: int, smallest: int) -> NamedSplits | HashedSplits:
    if not named:
        share = round(min(0.25, max(0.1, 10 / smallest)), 2)  # so that a small class has images in each of them
        return HashedSplits(eval_share=share, test_share=share)
    train, test = f"{named['train']}/*/*", f"{named['test']}/*/*"
    if "eval" in named:
        return NamedSplits(train, test, eval=f"{named['eval']}/*/*")
    return NamedSplits(train, test, eval_examples=count // 10)


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """Returns the pictures of each class, by the name of its folder."""
    part = spans.Part(spans.BASE, folder, _ANY)
    found: dict[str, list[Path]] = collections.defaultdict(list)
    for path in part.files("*/*"):
        found[path.parent.name].append(path)
    return dict(sorted(found.items()))


# Of a part's data set, `Part.files` asks for the format and the classes whose folders must be readable.
_ANY = Dataset(name="any", format="folders", shape=(1, 1, 1), classes=("a", "b"))


def _shape(by_class: dict[str, list[Path]]) -> tuple[int, int, int]:
    import PIL.Image  # those who read no pictures need not wait for it
    import tqdm

    sizes, modes = set(), set()
    for paths in by_class.values():
        for path in tqdm.tqdm(paths, desc="headers", unit=" pictures", leave=False, disable=None):
            try:
                with PIL.Image.open(path) as picture:
                    sizes.add(picture.size)
                    modes.add(picture.mode)
            except (OSError, ValueError, PIL.Image.DecompressionBombError):  # the ingestion says what is wrong with it
                continue
    channels = 1 if modes and modes <= set(GREY) else 3
    width, height = sizes.pop() if len(sizes) == 1 else (SIDE, SIDE)
    return (height, width, channels) if max(width, height) <= LARGEST_SIDE else (SIDE, SIDE, channels)


def _training(count: int) -> Training:
    batch = max(1, min(BATCH, count // 4))
    least, most = STEPS
    steps = min(most, max(least, EPOCHS * count // batch))
    return Training(batch_size=batch, steps=steps)
