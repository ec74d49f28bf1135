"""SavedModels for tests: of TensorFlow 1 and 2, of several types, and the trained networks."""

import dataclasses
import json
from pathlib import Path

import flatbuffers
import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated

from pipeline.experiments import load
from serving import warmup
from tests.digits import read_idx
from trainer import export, networks


def half_plus_two(path: Path, offset: float = 2.0) -> Path:
    """TensorFlow 1's well-known example: y = x / 2 + offset, with Predict, Classify and Regress signatures."""
    v1 = tf.compat.v1
    signatures = v1.saved_model.signature_def_utils
    with tf.Graph().as_default(), v1.Session() as session:
        slope = v1.get_variable("slope", initializer=0.5, use_resource=False)
        constant = v1.get_variable("constant", initializer=float(offset), use_resource=True)
        x = v1.placeholder(tf.float32, [None], name="x")
        y = tf.add(x * slope, constant, name="y")
        examples = v1.placeholder(tf.string, [None], name="examples")
        features = v1.parse_example(
            examples, {"x": tf.io.FixedLenFeature([1], tf.float32), "c": tf.io.FixedLenFeature([], tf.float32, 0.0)}
        )
        result = features["x"] * slope + constant + features["c"][:, tf.newaxis]
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([0, 1], ["low", "high"]), "none")
        classes = table.lookup(tf.cast(result > 5, tf.int32))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.builder.SavedModelBuilder(str(path))
        info = v1.saved_model.build_tensor_info
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": signatures.predict_signature_def({"x": x}, {"y": y}),
                "classify": signatures.classification_signature_def(examples, classes, result),
                "scores_only": signatures.classification_signature_def(examples, None, result),
                "regress": signatures.regression_signature_def(examples, result),
                "wrong_input": v1.saved_model.build_signature_def(
                    {"other": info(examples)}, {"scores": info(result)}, "tensorflow/serving/classify"
                ),
            },
            main_op=v1.tables_initializer(),
        )
        builder.save()
    return path


class HalfPlusTwo(tf.Module):
    """The same in TensorFlow 2: its input has two dimensions, and all its signatures are exported for Predict."""

    def __init__(self):
        super().__init__()
        self.slope = tf.Variable(0.5)

    @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")])
    def predict(self, x):
        return {"y": self.slope * x + 2}

    def _of(self, examples):
        return self.slope * tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"] + 2

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        return {"scores": self._of(inputs)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": self._of(inputs)}


def half_plus_two_2(path: Path) -> Path:
    module = HalfPlusTwo()
    signatures = {"serving_default": module.predict, "classify": module.classify, "regress": module.regress}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def half_plus_two_lite(path: Path, inputs: dict[str, str] | None = None, tensor: str = "") -> Path:
    """TensorFlow 2's as `model.tflite`; with SignatureDefs as metadata, by name, of inputs that are named so."""
    path.mkdir(parents=True)
    module = HalfPlusTwo()
    data = tf.lite.TFLiteConverter.from_concrete_functions([module.predict.get_concrete_function()], module).convert()
    if inputs:
        data = _with_signatures(data, inputs, tensor)
    (path / "model.tflite").write_bytes(data)
    return path


def lite(path: Path, signature: str) -> Path:
    """Adds a `model.tflite` of one of its signatures' scores to a SavedModel."""
    loaded = tf.saved_model.load(str(path))

    @tf.function(input_signature=[tf.TensorSpec([None, 28, 28, 1], tf.uint8, "images")])
    def scores(images):
        return loaded.signatures[signature](images=images)["scores"]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([scores.get_concrete_function()], loaded)
    (path / "model.tflite").write_bytes(converter.convert())
    return path


def _with_signatures(data: bytes, inputs: dict[str, str], tensor: str) -> bytes:
    """Returns a TensorFlow Lite file with SignatureDefs, where TensorFlow's tool for that puts them."""
    model = schema_py_generated.ModelT.InitFromObj(schema_py_generated.Model.GetRootAsModel(data, 0))
    graph = model.subgraphs[0]
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, key in sorted(inputs.items()):
            signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
            signature.inputs[key].name = tensor or graph.tensors[graph.inputs[0]].name.decode()
            signature.outputs["y"].name = graph.tensors[graph.outputs[0]].name.decode()
            builder.Key(name)
            builder.String(signature.SerializeToString().decode())
    buffer = schema_py_generated.BufferT()
    buffer.data = list(builder.Finish())
    model.buffers.append(buffer)
    metadata = schema_py_generated.MetadataT()
    metadata.name, metadata.buffer = "signature_defs_metadata", len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), metadata]
    packed = flatbuffers.Builder(0)
    packed.Finish(model.Pack(packed), file_identifier=b"TFL3")
    return bytes(packed.Output())


class Shapes(tf.Module):
    """Signatures of other types: int64, string, bool, float64, float16, scalars, two inputs of different lengths."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "a"), tf.TensorSpec([None], tf.int64, "b")])
    def add(self, a, b):
        return {"sum": a + b, "difference": a - b}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def shout(self, text):
        return {"upper": tf.strings.upper(text), "raw_bytes": text, "length": tf.strings.length(text)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, "value")])
    def scalar(self, value):
        return {"twice": value * 2, "nothing": value / 0 - value / 0}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float16, "half")])
    def half(self, half):
        return {"double": tf.cast(half, tf.float64), "positive": half > 0, "same": half}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def checked(self, x):
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, "negative numbers are refused")]):
            return {"root": tf.sqrt(x)}


def shapes(path: Path) -> Path:
    module = Shapes()
    names = ("add", "shout", "scalar", "half", "checked")
    tf.saved_model.save(module, str(path), signatures={name: getattr(module, name) for name in names})
    return path


def network(path: Path, name: str = "mnist", seed: int = 2019) -> Path:
    """A freshly drawn network of the tutorial, exported and warmed up as the pipeline does it."""
    job = load(name).training_job()
    job = dataclasses.replace(job, training=dataclasses.replace(job.training, seed=seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    export.save(networks.build(job, "float32"), job, path, path.parent)
    (path.parent / export.DATASET_ASSET).unlink()
    warmup.write(path, np.zeros((2, *job.shape), np.uint8), (1, 2))
    return path


def trained(path: Path, mnist: Path, steps: int = 600) -> Path:
    """The MNIST network after some steps on real digits: about 98 %."""
    job = load("mnist").training_job()
    images, labels = read_idx(mnist, "train", 60000)
    model = networks.build(job, "float32")
    logits_loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(1e-3), logits_loss)
    rows = np.random.default_rng(0).permutation(60000)[: steps * 64]
    model.fit(images[rows][..., np.newaxis].astype(np.float32), labels[rows], batch_size=64, shuffle=False, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    export.save(model, job, path, path.parent)
    (path.parent / export.DATASET_ASSET).unlink()
    warmup.write(path, images[:2, ..., np.newaxis], (1, 2))
    assert json.loads((path / "assets" / "dataset.json").read_text())["shape"] == [28, 28, 1]
    return path
