import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.image_example_gen import shards
from components.image_example_gen.dataset import HashedSplits, NamedSplits
from components.image_example_gen.readers import DataError
from components.image_example_gen.shards import content_splits, plan, split_names
from components.image_example_gen.spans import BASE, Part
from tests.digits import held_out, read_idx


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
