import collections
import dataclasses
import hashlib
import shutil

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.image_example_gen import shards
from components.image_example_gen.data_error import DataError
from components.image_example_gen.dataset import Dataset, HashedSplits, NamedSplits
from components.image_example_gen.shards import content_splits, plan, split_names
from components.image_example_gen.spans import BASE, Part
from conveyor.files import file_digest
from tests.digits import held_out, read_idx, write_idx
from tests.pictures import draw_classes


def counts(planned):
    total = {}
    for shard in planned:
        total[shard.split] = total.get(shard.split, 0) + shard.count
    return total


def test_splits_of_the_tutorials(mnist, mnist_dataset, cifar10, cifar10_dataset):
    assert counts(plan(Part(BASE, mnist, mnist_dataset))) == {"train": 55_000, "eval": 5_000, "test": 10_000}
    assert counts(plan(Part(BASE, cifar10, cifar10_dataset))) == {"train": 50_000, "test": 10_000}


def test_held_out_examples_are_the_first_across_files(cifar10, cifar10_dataset):
    dataset = held_out(cifar10_dataset, 12_500)
    planned = plan(Part(BASE, cifar10, dataset))
    assert counts(planned) == {"train": 37_500, "eval": 12_500, "test": 10_000}
    ranges = [(s.reader.path.name, s.start, s.count) for s in planned if s.split == "eval"]
    assert ranges[-1] == ("data_batch_2.bin", 0, 2500)


def test_held_out_examples_may_have_files_of_their_own(cifar10, cifar10_dataset):
    splits = NamedSplits("data_batch_[1-4].bin", "test_batch.bin", eval="data_batch_5.bin")
    planned = plan(Part(BASE, cifar10, dataclasses.replace(cifar10_dataset, splits=splits)))
    assert counts(planned) == {"train": 40_000, "eval": 10_000, "test": 10_000}


def test_every_image_is_in_one_shard(mnist, mnist_dataset, monkeypatch):
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 784 * 777)
    for split in ("train", "eval"):
        pieces = [s for s in plan(Part(BASE, mnist, mnist_dataset)) if s.split == split]
        assert len({piece.name for piece in pieces}) == len(pieces)
        covered = np.concatenate([np.arange(p.start, p.start + p.count) for p in pieces])
        expected = np.arange(5_000) if split == "eval" else np.arange(5_000, 60_000)
        assert (covered == expected).all()
        assert max(piece.count for piece in pieces) == 777


def test_refuses_to_hold_out_everything(small_mnist, mnist_dataset):
    dataset = held_out(mnist_dataset, 2000)
    with pytest.raises(DataError, match="eval_examples is 2000, and there are only 2000"):
        plan(Part(BASE, small_mnist, dataset))


def test_refuses_missing_files(tmp_path, mnist_dataset):
    with pytest.raises(
        DataError, match=r"expected the files of the split train, which match train-\*-ubyte, found none"
    ):
        plan(Part(BASE, tmp_path, mnist_dataset))


def test_refuses_missing_files_by_the_name_of_their_split(tmp_path, mnist, mnist_dataset):
    for path in mnist.glob("train-*-ubyte"):
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(DataError, match=r"expected the files of the split test, which match t10k-\*-ubyte, found none"):
        plan(Part(BASE, tmp_path, mnist_dataset))
    own = dataclasses.replace(mnist_dataset, splits=NamedSplits("train-*", "train-*", eval="held-*"))
    with pytest.raises(DataError, match=r"expected the files of the split eval, which match held-\*, found none"):
        plan(Part(BASE, tmp_path, own))
    hashed = dataclasses.replace(mnist_dataset, splits=HashedSplits("other-*"))
    with pytest.raises(DataError) as error:
        plan(Part(BASE, tmp_path, hashed))
    assert str(error.value) == f"{tmp_path}: expected labelled images, which match other-*, found none."


@pytest.fixture
def hashed(tmp_path, mnist, mnist_dataset):
    """A hundred digits whose content decides their splits."""
    write_idx(tmp_path, "x", *read_idx(mnist, "train", 100))
    return Part(BASE, tmp_path, dataclasses.replace(mnist_dataset, splits=HashedSplits("*-ubyte")))


def test_a_shard_of_hashed_splits_yields_every_image_in_its_own(hashed):
    (shard,) = plan(hashed)
    images, labels = shard.reader.read(0, 100)
    chosen = content_splits(images, hashed.dataset.splits)
    read = {piece.split: (piece.images, piece.labels) for piece in shard.read(hashed.dataset)}
    numbers = {piece.split: piece.numbers for piece in shard.read(hashed.dataset)}
    assert list(read) == ["train", "eval", "test"]
    for split, (pixels, truth) in read.items():
        assert np.array_equal(pixels, images[chosen == split])
        assert np.array_equal(pixels, images[numbers[split]])
        assert np.array_equal(truth, labels[chosen == split])


def test_what_is_reserved_is_the_images_of_test_and_eval(hashed):
    reserved = shards.reserved_digests(hashed)
    images, _ = plan(hashed)[0].reader.read(0, 100)
    held = content_splits(images, hashed.dataset.splits) != "train"
    assert reserved == {hashlib.sha256(image.tobytes()).digest() for image in images[held]}
    (shard,) = plan(hashed)
    number = int(np.flatnonzero(held)[0])
    with pytest.raises(DataError) as error:
        list(shard.read(hashed.dataset, reserved))
    assert f"found {held.sum()} of those: images {number}, " in str(error.value)
    assert str(error.value).endswith(", ..., counted from 0.")
    only_training = dataclasses.replace(shard, start=int(np.flatnonzero(~held)[0]), count=1)
    assert [len(piece.images) for piece in only_training.read(hashed.dataset, reserved)] == [1, 0, 0]


def test_a_shard_of_one_image_holds_one_however_large_it_is(hashed, monkeypatch):
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 1)
    assert [(shard.start, shard.count) for shard in plan(hashed)] == [(number, 1) for number in range(100)]


def test_content_alone_decides_the_split(mnist):
    images, _ = read_idx(mnist, "train", 5000)
    chosen = content_splits(images[..., np.newaxis], HashedSplits())
    shares = {split: np.mean(chosen == split) for split in ("train", "eval", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.02)
    assert shares["eval"] == pytest.approx(0.1, abs=0.02)
    order = np.random.default_rng(0).permutation(5000)
    assert (content_splits(images[order, :, :, np.newaxis], HashedSplits()) == chosen[order]).all()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 8), st.just(2), st.just(2), st.just(1))), st.randoms(), st.data())
def test_an_image_is_in_the_same_split_whatever_else_is_there(images, random, data):
    eval_share, test_share = (data.draw(st.floats(0, 0.99)) for _ in range(2))
    assume(eval_share + test_share < 1)
    splits = HashedSplits(eval_share=eval_share, test_share=test_share)
    chosen = content_splits(images, splits)
    order = random.sample(range(len(images)), random.randint(1, len(images)))
    assert content_splits(images[order], splits).tolist() == chosen[order].tolist()
    assert set(chosen) <= set(split_names(splits))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 50))
def test_the_first_examples_and_the_rest_are_all_and_none_is_in_both(sizes, count):
    readers = [range(size) for size in sizes]
    assume(0 < count < sum(sizes))
    first, rest = shards._divide(readers, count)
    everything = [(n, i) for n, size in enumerate(sizes) for i in range(size)]
    numbers = {id(reader): n for n, reader in enumerate(readers)}
    taken = [(numbers[id(r)], i) for r, start, length in (*first, *rest) for i in range(start, start + length)]
    assert taken == everything
    assert sum(length for _, _, length in first) == count


@pytest.fixture
def train_and_test(tmp_path):
    """Class folders with splits: 40 pictures of one class to train on, and 20 of another."""
    draw_classes(tmp_path / "train", {"a": 40, "b": 20}, (4, 4))
    draw_classes(tmp_path / "test", {"a": 2, "b": 2}, (4, 4))
    splits = NamedSplits("train/*/*", "test/*/*", eval_examples=9)
    return Part(BASE, tmp_path, Dataset("x", "folders", (4, 4, 3), ("a", "b"), splits))


def read_names(part, split):
    return [path for shard in plan(part) if shard.split == split for path in shard.reader.paths]


def test_class_folders_hold_out_as_large_a_share_of_each_class(train_and_test):
    held, rest = read_names(train_and_test, "eval"), read_names(train_and_test, "train")
    assert collections.Counter(path.parent.name for path in held) == {"a": 6, "b": 3}
    assert sorted(held + rest) == train_and_test.files("train/*/*")
    (shard,) = (shard for shard in plan(train_and_test) if shard.split == "eval")
    (piece,) = shard.read(train_and_test.dataset)
    assert (len(piece.images), piece.labels.tolist()) == (9, [0] * 6 + [1] * 3)


def test_a_pictures_content_decides_whether_it_is_held_out(train_and_test):
    held = {file_digest(path) for path in read_names(train_and_test, "eval")}
    for number, path in enumerate(train_and_test.files("train/*/*")):
        path.rename(path.with_name(f"{(number * 37) % 101}.png"))
    assert {file_digest(path) for path in read_names(train_and_test, "eval")} == held
    assert held != {file_digest(path) for path in train_and_test.files("train/a/*")[:9]}


def test_equal_pictures_are_on_one_side(train_and_test):
    last = max(read_names(train_and_test, "eval")[:6], key=file_digest)
    shutil.copy(last, last.with_name("again.png"))
    sides = [split for split in ("train", "eval") for path in read_names(train_and_test, split)
             if path in (last, last.with_name("again.png"))]  # fmt: skip
    assert len(sides) == 2
    assert len(set(sides)) == 1


def test_no_class_leaves_training(train_and_test):
    for path in train_and_test.files("train/b/*"):
        shutil.copy(train_and_test.files("train/a/*")[0], path)  # all the same
    held, rest = read_names(train_and_test, "eval"), read_names(train_and_test, "train")
    assert {path.parent.name for path in rest} == {"a", "b"}
    assert {path.parent.name for path in held} == {"a"}
    assert len(held) == 6


def test_more_than_there_are_cannot_be_held_out(train_and_test):
    splits = dataclasses.replace(train_and_test.dataset.splits, eval_examples=60)
    with pytest.raises(DataError, match="eval_examples is 60, and there are only 60"):
        plan(dataclasses.replace(train_and_test, dataset=dataclasses.replace(train_and_test.dataset, splits=splits)))
