import numpy as np
import pytest
import tensorflow as tf

from components.image_example_gen.executor import serialize, serialize_files
from tests.pictures import encode, noise
from trainer import pictures, records
from trainer.examples import ShuffledOrder, Split, batches, read_split
from trainer.settings import Pictures


def test_reads_what_ingestion_writes(digits, tmp_path):
    for part in range(2):
        with tf.io.TFRecordWriter(str(tmp_path / f"data-{part}")) as writer:
            half = slice(500 * part, 500 * (part + 1))
            for record in serialize(digits.images[half], digits.labels[half]):
                writer.write(record.content)
    split = read_split(tmp_path, Pictures((28, 28, 1)))
    assert (split.images[:] == digits.images).all()
    assert (split.labels == digits.labels).all()


def test_refuses_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="no TFRecord file"):
        read_split(tmp_path, Pictures((28, 28, 1)))
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="no example"):
        read_split(tmp_path, Pictures((28, 28, 1)))


def test_every_epoch_shows_every_example_once_in_a_new_order():
    epochs = np.concatenate(list(ShuffledOrder(examples=10, batch_size=4, steps=10, seed=7))).reshape(4, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_depends_on_the_seed_alone():
    order = np.array(list(ShuffledOrder(100, 8, 50, seed=1)))
    assert (order == np.array(list(ShuffledOrder(100, 8, 90, seed=1)))[:50]).all()
    assert (order != np.array(list(ShuffledOrder(100, 8, 50, seed=2)))).any()


def test_a_batch_may_be_larger_than_all_the_examples():
    order = ShuffledOrder(examples=3, batch_size=10, steps=3, seed=1)
    assert [len(batch) for batch in order] == [10, 10, 10]
    assert (np.sort(np.concatenate(list(order)).reshape(10, 3), axis=1) == np.arange(3)).all()
    with pytest.raises(IndexError):
        order[3]


def test_picture_files_are_decoded_to_the_pixels_that_were_ingested(tmp_path):
    """Large pictures, kept as they are: every image, in the order of training, as ingestion saw it."""
    rules = Pictures((12, 10, 3), "crop", encoded=True)
    files = [encode(noise(40 + n, 50, 3, seed=n), "JPEG" if n % 2 else "PNG") for n in range(12)]
    seen = pictures.decoder(rules)(tf.constant(files)).numpy()
    labels = np.arange(12) % 3
    (tmp_path / "Split-a").mkdir()
    records.write(tmp_path / "Split-a" / "file", serialize_files(seen, labels, files))
    split = read_split(tmp_path / "Split-a", rules)
    assert (split.images[:] == seen).all()
    assert (split.images[7] == seen[7]).all()
    assert split.images[:0].shape == (0, 12, 10, 3)
    order = ShuffledOrder(12, 4, 5, seed=1)
    for step, (images, found) in enumerate(batches(split, order).as_numpy_iterator()):
        assert (images == seen[order[step]]).all()
        assert (found == labels[order[step]]).all()


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_replicas_share_each_batch(replicas):
    split = Split(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1), np.arange(40, dtype=np.int64))
    order = ShuffledOrder(40, 10, 7, seed=3)
    shares = list(batches(split, order, first_step=2, replicas=replicas).as_numpy_iterator())
    assert len(shares) == 5 * replicas
    seen = np.concatenate([labels for _, labels in shares]).reshape(5, 10)
    assert (seen == np.array(list(order))[2:]).all()
    assert all((images.ravel() == labels).all() for images, labels in shares)


def test_a_worker_reads_its_rows_alone():
    class Watched:
        def __init__(self):
            self.read = []

        def __getitem__(self, numbers):
            self.read.extend(np.atleast_1d(numbers).tolist() if isinstance(numbers, np.ndarray) else [])
            return np.zeros((*np.arange(40)[numbers].shape, 1, 1, 1), np.uint8)

    images, labels, order = Watched(), np.arange(40, dtype=np.int64), ShuffledOrder(40, 10, 7, seed=3)
    shares = list(batches(Split(images, labels), order, replicas=4, here=range(2, 4)).as_numpy_iterator())
    seen = np.concatenate([labels for _, labels in shares]).reshape(7, 5)
    assert (seen == np.array(list(order))[:, 5:]).all()
    assert sorted(images.read) == sorted(seen.ravel())
