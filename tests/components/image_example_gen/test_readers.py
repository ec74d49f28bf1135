import contextlib
import dataclasses
import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.image_example_gen.data_error import DataError
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.readers import FolderReader, open_readers
from tests.digits import write_idx
from tests.pictures import draw_classes


@pytest.fixture
def idx(tmp_path):
    rng = np.random.default_rng(0)
    write_idx(tmp_path, "train", rng.integers(0, 256, (30, 28, 28)), np.arange(30) % 10)
    return tmp_path


def readers(folder, dataset, pattern="*"):
    return open_readers(list(folder.glob(pattern)), dataset)


def test_reads_real_mnist(mnist, mnist_dataset):
    (reader,) = readers(mnist, mnist_dataset, "train-*-ubyte")
    images, labels = reader.read(0, 10)
    assert len(reader) == 60_000
    assert labels.tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert images.shape == (10, 28, 28, 1)
    assert images.dtype == np.uint8
    whole, _ = reader.read(0, 60_000)
    assert whole.mean() / 255 == pytest.approx(0.1307, abs=1e-4)  # the mean that everybody normalises MNIST with


def test_reads_real_cifar10(cifar10, cifar10_dataset):
    all_readers = readers(cifar10, cifar10_dataset, "data_batch_*.bin")
    assert sum(map(len, all_readers)) == 50_000
    images, labels = all_readers[0].read(0, 10)
    assert labels.tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert images.shape == (10, 32, 32, 3)
    means = np.mean([reader.read(0, len(reader))[0].mean(axis=(0, 1, 2)) for reader in all_readers], axis=0)
    assert means / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)  # channels are channels, not thirds of rows


def test_reads_from_any_position(idx, mnist_dataset):
    (reader,) = readers(idx, mnist_dataset)
    images, labels = reader.read(0, 30)
    later, later_labels = reader.read(11, 7)
    assert (later == images[11:18]).all()
    assert (later_labels == labels[11:18]).all()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("images-idx3", lambda b: b[:-100], r"at byte 23436: expected 23536 bytes, 30 images .* found 23436"),
        ("images-idx3", lambda b: b + b"x", r"at byte 23536: expected 23536 bytes"),
        ("images-idx3", lambda b: gzip.compress(b), r"at byte 0: .* 0x00000803, found 0x1f8b.* must end in \.gz\)\.$"),
        ("images-idx3", lambda b: b[:7], r"at byte 7: expected a header of 16 bytes"),
        ("images-idx3", lambda b: b[:8] + struct.pack(">2I", 14, 56) + b[16:], r"at byte 8: .*28 x 28.*14 x 56"),
        ("labels-idx1", lambda b: b[:-1], r"at byte 37: expected 38 bytes"),
        ("labels-idx1", lambda b: struct.pack(">2I", 0x801, 29) + b[9:], r"at byte 4: expected 30 labels.* found 29"),
    ],
)
def test_refuses_wrong_structure_when_opened(idx, mnist_dataset, file, change, message):
    path = idx / f"train-{file}-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        readers(idx, mnist_dataset)
    assert str(path) in str(error.value)


def test_refuses_label_out_of_range_with_its_offset(idx, mnist_dataset):
    path = idx / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[8 + 17] = 10
    path.write_bytes(content)
    (reader,) = readers(idx, mnist_dataset)
    with pytest.raises(DataError, match=r"at byte 25: expected a label from 0 to 9, found 10"):
        reader.read(10, 20)


def test_refuses_images_without_labels(idx, mnist_dataset):
    (idx / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"expected its labels in train-labels-idx1-ubyte or .*-ubyte\.gz, found no"):
        readers(idx, mnist_dataset)


def gzipped(path, change=lambda content: content):
    """Puts a gzipped file in a file's place, and returns its path."""
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(change(gzip.compress(path.read_bytes())))
    path.unlink()
    return packed


@pytest.mark.parametrize("files", [("images-idx3",), ("labels-idx1",), ("images-idx3", "labels-idx1")])
def test_gzipped_idx_files_are_what_they_hold(idx, mnist_dataset, files):
    (plain,) = readers(idx, mnist_dataset)
    images, labels = plain.read(11, 7)
    for file in files:
        gzipped(idx / f"train-{file}-ubyte")
    (reader,) = readers(idx, mnist_dataset)
    assert len(reader) == 30
    assert np.array_equal(reader.read(11, 7)[0], images)
    assert np.array_equal(reader.read(11, 7)[1], labels)


def test_gzipped_cifar_files_are_what_they_hold(tmp_path, cifar10_dataset):
    records = np.random.default_rng(0).integers(0, 10, (4, 3073), np.uint8)
    (tmp_path / "x.bin").write_bytes(records.tobytes())
    (plain,) = readers(tmp_path, cifar10_dataset)
    images, labels = plain.read(1, 3)
    gzipped(tmp_path / "x.bin")
    (reader,) = readers(tmp_path, cifar10_dataset)
    assert len(reader) == 4
    assert np.array_equal(reader.read(1, 3)[0], images)
    assert np.array_equal(reader.read(1, 3)[1], labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda packed: packed[:-20], "expected a whole gzipped file, found one with: Compressed file ended"),
        (lambda packed: b"x" * 30, "expected a whole gzipped file, found one with: Not a gzipped file"),
        (lambda packed: packed[:12] + b"\xff" * 30 + packed[42:], "expected a whole gzipped file, found one with: "),
        (lambda packed: gzip.compress(b"x" * 20), "at byte 0 of its content: expected the IDX magic number"),
        (
            lambda packed: gzip.compress(gzip.decompress(packed) + bytes(10**8)),
            "at byte 23536 of its content: expected 23536 bytes.* found at least [0-9]{7} bytes",  # and no further
        ),
    ],
    ids=["cut off", "none", "damaged", "another content", "too long"],
)
def test_what_is_wrong_with_a_gzipped_file_is_told_of(idx, mnist_dataset, change, message):
    packed = gzipped(idx / "train-images-idx3-ubyte", change)
    with pytest.raises(DataError, match=message) as error:
        readers(idx, mnist_dataset)
    assert str(packed) in str(error.value)


def test_refuses_truncated_cifar(tmp_path, cifar10_dataset):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(bytes(3 * 3073 - 5))
    with pytest.raises(DataError, match=r"at byte 6146: expected records of 3073 bytes, found 9214 bytes: 2 whole"):
        readers(tmp_path, cifar10_dataset)


def test_refuses_cifar_label_out_of_range(tmp_path, cifar10_dataset):
    records = np.zeros((4, 3073), np.uint8)
    records[2, 0] = 200
    (tmp_path / "data_batch_1.bin").write_bytes(records.tobytes())
    (reader,) = readers(tmp_path, cifar10_dataset)
    with pytest.raises(DataError, match=r"at byte 6146: .*found 200"):
        reader.read(0, 4)


@pytest.fixture
def folders(tmp_path, mnist_dataset):
    dataset = dataclasses.replace(mnist_dataset, format="folders", classes=("cat", "dog"), shape=(8, 6, 3))
    for name, color in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (60, 80), color).save(tmp_path / name / "a.png")
        PIL.Image.new("L", (6, 8), 128).save(tmp_path / name / "b.jpg")
    return tmp_path, dataset


def test_class_folders_have_a_class_and_a_number_of_channels(folders):
    folder, dataset = folders
    (folder / "horse").mkdir()
    odd = folder / "horse" / "a.png"
    odd.touch()
    with pytest.raises(DataError) as error:
        open_readers(list(folder.glob("*/*")), dataset)
    assert (
        str(error.value)
        == f"{odd.parent}: expected a folder named after a class (cat, dog), found 'horse' with 1 file."
    )
    with pytest.raises(DataError) as error:
        open_readers(list(folder.glob("cat/*")), dataclasses.replace(dataset, shape=(8, 6, 2)))
    first = folder / "cat" / "a.png"
    assert str(error.value) == f"{first}: expected images of 1, 3 or 4 channels, found 2 asked for."


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lambda png: b"no picture", "something else"),
        (lambda png: b"", "an empty file"),
        (lambda png: png[:20], "a file with this: it ends within its header"),
        (lambda png: png[:60], "a file with this: Invalid PNG data"),
    ],
    ids=["another kind", "empty", "cut off in its header", "cut off"],
)
def test_a_picture_that_is_none_is_told_of(folders, content, found):
    folder, dataset = folders
    path = folder / "dog" / "a.png"
    path.write_bytes(content(path.read_bytes()))
    (reader,) = open_readers([path], dataset)
    with pytest.raises(
        DataError, match=rf"dog/a\.png: expected a whole picture: PNG, JPEG, GIF, BMP or WebP, found {found}\.$"
    ):
        reader.read(0, 1)


def test_a_picture_of_another_kind_is_told_of(folders):
    folder, dataset = folders
    PIL.Image.new("L", (6, 8)).save(folder / "dog" / "c.tiff")
    (reader,) = open_readers([folder / "dog" / "c.tiff"], dataset)
    with pytest.raises(DataError, match=r"found TIFF, which is not supported: convert it\.$"):
        reader.read(0, 1)


@pytest.mark.parametrize("kind", ["gif", "bmp", "webp"])
def test_pictures_that_become_png_are_read(folders, kind):
    folder, dataset = folders
    PIL.Image.new("RGB", (6, 8), (255, 0, 0)).save(folder / "dog" / f"c.{kind}", lossless=True)
    (reader,) = open_readers([folder / "dog" / f"c.{kind}"], dataset)
    assert (reader.read(0, 1)[0] == (255, 0, 0)).all()


def test_a_picture_is_made_smaller_by_averaging(folders):
    folder, dataset = folders
    checkered = np.indices((16, 12)).sum(axis=0) % 2 * 255
    PIL.Image.fromarray(checkered.astype(np.uint8)).save(folder / "cat" / "c.png")
    (reader,) = open_readers([folder / "cat" / "c.png"], dataset)
    images, labels = reader.read(0, 1)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert (abs(images.astype(int) - 127) <= 24).all()  # the nearest pixel alone would be 0 or 255


def test_reads_class_folders_resized(folders):
    folder, dataset = folders
    (reader,) = open_readers(list(folder.glob("*/*")), dataset)
    images, labels = reader.read(0, 4)
    assert labels.tolist() == [0, 0, 1, 1]
    assert images.shape == (4, 8, 6, 3)
    assert (images[0] == (255, 0, 0)).all()
    assert (images[2] == (0, 0, 255)).all()
    assert (images[1] == 128).all()


def test_refuses_unknown_class_folder(folders):
    folder, dataset = folders
    shutil.move(folder / "cat", folder / "horse")
    with pytest.raises(DataError, match=r"expected a folder named after a class \(cat, dog\), found 'horse'"):
        open_readers(list(folder.glob("*/*")), dataset)


def test_refuses_corrupt_image(folders):
    folder, dataset = folders
    path = folder / "dog" / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    (reader,) = open_readers(list(folder.glob("*/*")), dataset)
    with pytest.raises(DataError, match=r"dog/a\.png: expected a whole picture: PNG"):
        reader.read(0, 4)


@pytest.mark.parametrize(("count", "failing"), [(20, 3), (40, 3), (34, 33), (33, 32)])  # blocks have 32
def test_files_that_could_not_be_read_for_a_moment_are_not_lost(tmp_path, monkeypatch, count, failing):
    draw_classes(tmp_path, {"a": count // 2, "b": count - count // 2})
    dataset = Dataset("some", "folders", (8, 8, 3), ("a", "b"))
    paths = sorted(tmp_path.glob("*/*"))
    whole, _ = FolderReader(tuple(paths), dataset).read(0, count)
    read, failed = Path.read_bytes, []

    def once(path):
        if path == paths[failing] and not failed:
            failed.append(path)
            raise OSError("stale file handle")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", once)
    images, labels = FolderReader(tuple(paths), dataset).read(0, count)
    assert failed
    assert (images == whole).all()
    assert len(labels) == count


def test_every_file_that_cannot_be_used_is_told_of(folders):
    folder, dataset = folders
    for number in range(70):
        (folder / "dog" / f"x{number:02d}.png").write_bytes(b"no picture")
    (folder / "cat" / "b.jpg").chmod(0o000)
    (reader,) = open_readers(list(folder.glob("*/*")), dataset)
    with pytest.raises(DataError) as error:
        reader.read(0, len(reader))
    lines = str(error.value).splitlines()
    assert lines[0] == f"{len(error.value.sentences)} files cannot be used:"
    assert len(lines) == 1 + 50 + 1
    assert lines[-1] == f"... and {len(error.value.sentences) - 50} more"
    assert [name for sentence in error.value.sentences if (name := sentence.partition(":")[0].rpartition("/")[2])][
        -70:
    ] == [f"x{number:02d}.png" for number in range(70)]


TINY = {
    "idx": Dataset("tiny", "idx", (2, 3, 1), ("a", "b")),
    "cifar_binary": Dataset("tiny", "cifar_binary", (2, 3, 2), ("a", "b")),
}


def read_all(folder, dataset):
    for reader in readers(folder, dataset):
        images, labels = reader.read(0, len(reader))
        assert images.shape == (len(reader), *dataset.shape)
        assert labels.shape == (len(reader),)
        assert not len(labels) or 0 <= labels.min() <= labels.max() < len(dataset.classes)


@given(
    st.one_of(
        st.binary(max_size=40), st.builds(lambda b: struct.pack(">4I", 0x803, 2, 2, 3) + b, st.binary(max_size=13))
    ),
    st.one_of(st.binary(max_size=12), st.builds(lambda b: struct.pack(">2I", 0x801, 2) + b, st.binary(max_size=3))),
)
@example(struct.pack(">4I", 0x803, 2, 2, 3) + bytes(12), struct.pack(">2I", 0x801, 2) + bytes(2))
def test_any_idx_files_are_read_or_refused(tmp_path_factory, images, labels):
    folder = tmp_path_factory.mktemp("idx")
    (folder / "x-images-idx3-ubyte").write_bytes(images)
    (folder / "x-labels-idx1-ubyte").write_bytes(labels)
    with contextlib.suppress(DataError):
        read_all(folder, TINY["idx"])


@given(st.binary(max_size=40))
@example(bytes(26))
def test_any_cifar_file_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("cifar")
    (folder / "x.bin").write_bytes(content)
    with contextlib.suppress(DataError):
        read_all(folder, TINY["cifar_binary"])


@given(st.data())
def test_any_slice_is_the_slice_of_the_whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("slices")
    labels = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=9))
    pixels = np.arange(len(labels) * 6, dtype=np.uint8).reshape(len(labels), 2, 3)
    write_idx(folder, "x", pixels, np.array(labels))
    (reader,) = readers(folder, TINY["idx"])
    start = data.draw(st.integers(0, len(labels) - 1))
    count = data.draw(st.integers(0, len(labels) - start))
    images, found = reader.read(start, count)
    assert np.array_equal(images[..., 0], pixels[start : start + count])
    assert found.tolist() == labels[start : start + count]


@given(st.lists(st.tuples(st.integers(0, 1), st.binary(min_size=12, max_size=12)), min_size=1, max_size=5))
def test_a_cifar_record_is_a_label_and_its_channels(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("records")
    (folder / "x.bin").write_bytes(b"".join(bytes([label]) + pixels for label, pixels in records))
    (reader,) = readers(folder, TINY["cifar_binary"])
    images, labels = reader.read(0, len(reader))
    assert labels.tolist() == [label for label, _ in records]
    for image, (_, pixels) in zip(images, records, strict=True):
        assert b"".join(image[..., channel].tobytes() for channel in range(2)) == pixels
