import dataclasses
import io
import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from components.image_example_gen.executor import serialize, serialize_files
from pipeline.experiments import load
from serving import servability
from trainer import export, loop, networks


@pytest.fixture(scope="module")
def exported(tmp_path_factory, mnist_job, digits):
    folder = tmp_path_factory.mktemp("export")
    trained = networks.build(mnist_job, "mixed_bfloat16")
    network = export.save(trained, mnist_job, folder / "model", folder)
    expected = loop.predictor(network, mnist_job.shape)(digits.images[:20])
    return folder / "model", expected


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_every_signature_gives_the_same_answer(exported, digits):
    folder, expected = exported
    signatures = tf.saved_model.load(str(folder)).signatures
    images, labels = digits.images[:20], digits.labels[:20]
    files = [png(PIL.Image.fromarray(image.squeeze(-1))) for image in images]
    requests = {
        "serving_default": {"examples": tf.constant([record.content for record in serialize(images, labels)])},
        "predict_images": {"images": tf.constant(images.reshape(20, 784) / np.float32(255))},
        "predict_pixels": {"images": tf.constant(images)},
        "predict_encoded": {"image_bytes": tf.constant(files)},
    }
    for name, request in requests.items():
        reply = signatures[name](**request)
        np.testing.assert_allclose(reply["scores"], expected, atol=1e-5, err_msg=name)
        assert reply["label"].dtype == tf.int64
        assert reply["classes"].shape == reply["scores"].shape == (20, 10)
        assert (reply["label"].numpy() == expected.argmax(axis=1)).all()
        assert reply["classes"].numpy()[3].tolist() == [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"]


def test_a_model_of_picture_files_answers_examples_that_hold_one(mnist_job, digits, tmp_path):
    job = dataclasses.replace(mnist_job, pictures=dataclasses.replace(mnist_job.pictures, encoded=True))
    network = export.save(networks.build(job, "float32"), job, tmp_path / "model", tmp_path)
    images, labels = digits.images[:5], digits.labels[:5]
    files = [png(PIL.Image.fromarray(image.squeeze(-1))) for image in images]
    examples = [record.content for record in serialize_files(images, labels, files)]
    reply = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](examples=tf.constant(examples))
    np.testing.assert_allclose(reply["scores"], loop.predictor(network, job.shape)(images), atol=1e-5)
    servability.check(tmp_path / "model", images, loop.predictor(network, job.shape)(images))


def test_images_of_any_shape_that_fits(exported, digits):
    predict = tf.saved_model.load(str(exported[0])).signatures["predict_images"]
    unit = digits.images[:6] / np.float32(255)
    flat = predict(images=tf.constant(unit.reshape(6, 784)))["scores"]
    for shape in ((6, 28, 28, 1), (6, 28, 28), (2, 3, 784)):
        np.testing.assert_array_equal(predict(images=tf.constant(unit.reshape(shape)))["scores"], flat)


def test_encoded_images_are_resized_and_turned_grey(exported, digits):
    predict = tf.saved_model.load(str(exported[0])).signatures["predict_encoded"]
    image = PIL.Image.fromarray(digits.images[0].squeeze(-1))
    large = image.resize((280, 280), PIL.Image.Resampling.NEAREST)
    jpeg = io.BytesIO()
    large.convert("RGB").save(jpeg, "JPEG", quality=95)
    scores = predict(image_bytes=tf.constant([png(image), png(large), jpeg.getvalue()]))["scores"].numpy()
    np.testing.assert_allclose(scores[1], scores[0], atol=0.02)  # smoothed a little: the filter reaches past a pixel
    np.testing.assert_allclose(scores[2], scores[0], atol=0.02)


@pytest.fixture(params=["mnist", "cifar10"])
def job(request):
    return load(request.param).training_job()


def test_a_network_takes_the_weights_of_an_export(job, tmp_path):
    trained = networks.build(job, "mixed_bfloat16")
    trained.set_weights([weight + 0.5 for weight in trained.get_weights()])
    export.save(trained, job, tmp_path / "model", tmp_path)
    network = networks.build(job, "float32")
    export.set_weights(network, export.read_weights(tmp_path / "model"))
    for weight, expected in zip(network.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_weights_of_another_network_are_refused(job, tmp_path):
    other = dataclasses.replace(job, classes=("yes", "no"))
    export.save(networks.build(other, "float32"), other, tmp_path / "model", tmp_path)
    with pytest.raises(export.OtherNetwork, match=r"Set training\.warm_steps=0 once"):
        export.set_weights(networks.build(job, "float32"), export.read_weights(tmp_path / "model"))


def test_weights_are_stored_once_and_shape_and_classes_travel_along(exported, mnist_job):
    folder, _ = exported
    size = sum(path.stat().st_size for path in (folder / "variables").iterdir())
    assert size < 1.1 * 4 * networks.build(mnist_job, "float32").count_params()
    assert json.loads((folder / "assets" / "dataset.json").read_text()) == {
        "shape": [28, 28, 1],
        "resize": "squash",
        "encoded": False,
        "background": "black",
        "classes": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    }
