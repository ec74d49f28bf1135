import numpy as np
import pytest
import tensorflow as tf

from serving.tflite import FLOAT16, INT8, LiteModel, file_of


@pytest.fixture
def mean_model(tmp_path):
    """A file whose two scores are the mean pixel, and what is left of 255."""

    class Mean(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.uint8)])
        def __call__(self, images):
            mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=(1, 2))
            return tf.concat([mean, 255 - mean], axis=1)

    tf.saved_model.save(Mean(), str(tmp_path / "model"))
    (tmp_path / "mean.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model")).convert())
    return LiteModel(tmp_path / "mean.tflite")


@pytest.fixture
def dark_model(tmp_path):
    """An int8 file whose range is that of pixels from 0 to 30, and whose answer is the mean of a picture."""

    class Mean(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.float32)])
        def __call__(self, images):
            return tf.reduce_mean(images, axis=(1, 2))

    tf.saved_model.save(Mean(), str(tmp_path / "model"))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    ends = [np.full((1, 4, 4, 1), value, np.float32) for value in (0, 30)]
    converter.representative_dataset = lambda: ([image] for image in ends)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    (tmp_path / "dark.tflite").write_bytes(converter.convert())
    return LiteModel(tmp_path / "dark.tflite")


def test_a_file_of_another_range_is_given_pixels_of_its_own(dark_model):
    images = np.repeat(np.arange(31, dtype=np.uint8), 16).reshape(31, 4, 4, 1)
    assert np.abs(dark_model.scores(images)[:, 0] - np.arange(31)).max() < 0.2


def test_files_lie_where_a_server_does_not_look():
    assert str(file_of(FLOAT16)) == "assets.extra/tflite/float16.tflite"
    assert str(file_of(INT8)) == "assets.extra/tflite/int8.tflite"


@pytest.mark.parametrize("count", [1, 7, 100, 250])
def test_any_number_of_images_is_answered_in_order(mean_model, count):
    images = np.random.default_rng(count).integers(0, 256, (count, 4, 4, 1), np.uint8)
    scores = mean_model.scores(images)
    means = images.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(scores, np.stack([means, 255 - means], axis=1), rtol=1e-5)


def test_what_is_no_such_file_is_refused(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.tflite"):
        LiteModel(tmp_path / "x.tflite")
