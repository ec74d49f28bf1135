import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server.models.bundle import SavedModelBundle
from serving.server.models.replica import LoadedVersion
from serving.server.protocol import example_requests, requests
from serving.server.protocol.errors import StatusError

LIMITS = requests.Limits()


def version_of(base):
    return LoadedVersion("m", 7, base / "1", bundle=SavedModelBundle(base / "1"))


@pytest.fixture(scope="module")
def half(half_plus_two):
    return version_of(half_plus_two)


@pytest.fixture(scope="module")
def shape(shapes):
    return version_of(shapes)


def run(version, prepared):
    return prepared.reply(version.loaded.run(prepared.signature, prepared.inputs, prepared.outputs))


def predict(version, signature="", filter_=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=filter_)
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    reply = run(version, requests.prepare_predict(request, version.servable, LIMITS))
    response = predict_pb2.PredictResponse.FromString(reply)
    assert response.model_spec.version.value == 7
    assert response.model_spec.signature_name == (signature or "serving_default")
    return {name: tf.make_ndarray(value).tolist() for name, value in response.outputs.items()}


def example(**features):
    made = tf.train.Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


@pytest.mark.compatible("Predict and metadata")
def test_predict_of_a_model_of_tensorflow_1(half):
    assert predict(half, x=np.array([2, 4], np.float32)) == {"y": [3.0, 4.0]}


@pytest.mark.compatible("Predict and metadata")
def test_predict_of_every_type(shape):
    assert predict(shape, "add", a=np.array([3]), b=np.array([4])) == {"sum": [7], "difference": [-1]}
    assert predict(shape, "shout", text=[b"ab"]) == {"upper": [b"AB"], "raw_bytes": [b"ab"], "length": [2]}
    assert predict(shape, "scalar", ["twice"], value=np.float32(2)) == {"twice": 4.0}
    assert predict(shape, "half", half=np.array([[1.5]], np.float16))["double"] == [[1.5]]


@pytest.mark.parametrize(
    ("signature", "filter_", "inputs", "code", "message"),
    [
        ("none", (), {"x": [1.0]}, "FAILED_PRECONDITION", 'Serving signature key "none" not found.'),
        (
            "add", (), {"a": [1], "c": [1], "d": [1]}, "INVALID_ARGUMENT",
            "input size does not match signature: 3!=2 len({a,c,d}) != len({a,b}). Sent extra: {c,d}. "
            "Missing but required: {b}.",
        ),
        ("add", (), {"a": [1], "c": [1]}, "INVALID_ARGUMENT", "Sent extra: {c}. Missing but required: {b}."),
        ("add", (), {"a": [1.0], "b": [1]}, "INVALID_ARGUMENT", "Expects arg[0] to be int64 but float is provided"),
        (
            "add", ("sum", "product"), {"a": [1], "b": [1]}, "INVALID_ARGUMENT",
            "output tensor alias not found in signature: product Outputs expected to be in the set {difference,sum}.",
        ),
        ("add", ("sum", "sum"), {"a": [1], "b": [1]}, "INVALID_ARGUMENT", "duplicate output tensor alias: sum"),
        ("add", (), {"a": [1, 2], "b": [1, 2, 3]}, "INVALID_ARGUMENT", "Incompatible shapes"),
    ],
)  # fmt: skip
@pytest.mark.compatible("Predict and metadata")
def test_refusals_of_predict_are_the_real_servers(shape, signature, filter_, inputs, code, message):
    typed = {
        name: np.array(value, np.float32 if isinstance(value[0], float) else np.int64) for name, value in inputs.items()
    }
    with pytest.raises(StatusError) as error:
        predict(shape, signature, filter_, **typed)
    assert error.value.code == code
    assert message in error.value.message


@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_classify_with_and_without_context(half):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "classify"
    request.input.example_list.examples.extend([example(x=2), example(x=10)])
    result = run(half, example_requests.prepare_classify(request, half.servable, LIMITS)).result
    assert [(c.classes[0].label, c.classes[0].score) for c in result.classifications] == [("low", 3), ("high", 7)]
    request.input.example_list_with_context.context.CopyFrom(example(c=100))
    request.input.example_list_with_context.examples.extend([example(x=2), example(x=2, c=1)])
    result = run(half, example_requests.prepare_classify(request, half.servable, LIMITS)).result
    assert [c.classes[0].score for c in result.classifications] == [103, 4]


@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_classify_of_scores_alone(half):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "scores_only"
    request.input.example_list.examples.append(example(x=2))
    entry = (
        run(half, example_requests.prepare_classify(request, half.servable, LIMITS))
        .result.classifications[0]
        .classes[0]
    )
    assert (entry.label, entry.score) == ("", 3)


@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_regress(half):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "regress"
    request.input.example_list.examples.extend([example(x=2), example(x=4)])
    response = run(half, example_requests.prepare_regress(request, half.servable, LIMITS))
    assert [one.value for one in response.result.regressions] == [3, 4]


@pytest.mark.parametrize(
    ("signature", "rows", "code", "message"),
    [
        ("none", 1, "INVALID_ARGUMENT", "No signature was found with the name: none"),
        ("", 1, "INVALID_ARGUMENT", "method_name to be tensorflow/serving/classify. Was: tensorflow/serving/predict"),
        ("classify", 0, "INVALID_ARGUMENT", "Input is empty."),
        ("wrong_input", 1, "FAILED_PRECONDITION", "No classification inputs found in SignatureDef"),
    ],
)
@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_refusals_of_classify(half, signature, rows, code, message):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    request.input.example_list.examples.extend([example(x=2)] * rows)
    with pytest.raises(StatusError) as error:
        example_requests.prepare_classify(request, half.servable, requests.Limits(checks_methods=True))
    assert error.value.code == code
    assert message in error.value.message


def multi(*tasks):
    request = inference_pb2.MultiInferenceRequest()
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = model, signature
    request.input.example_list.examples.append(example(x=2))
    return request


@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_multi_inference_joins_its_tasks(half):
    request = multi(("m", "classify", example_requests.CLASSIFY), ("m", "regress", example_requests.REGRESS))
    prepare = {"classify": example_requests.prepare_classify, "regress": example_requests.prepare_regress}
    joined = example_requests.join_multi(
        [run(half, prepare[kind](part, half.servable, LIMITS)) for kind, part in example_requests.split_multi(request)]
    )
    assert joined.results[0].classification_result.classifications[0].classes[0].label == "low"
    assert joined.results[1].regression_result.regressions[0].value == 3
    assert [result.model_spec.signature_name for result in joined.results] == ["classify", "regress"]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one task"),
        (
            [("m", "a", example_requests.CLASSIFY), ("n", "b", example_requests.CLASSIFY)],
            "must access the same model name",
        ),
        (
            [("m", "a", example_requests.CLASSIFY), ("m", "a", example_requests.REGRESS)],
            "Duplicate evaluation of signature: a",
        ),
        (
            [("m", "a", example_requests.CLASSIFY), ("m", "b", "tensorflow/serving/predict")],
            "Unsupported signature method_name",
        ),
        ([("", "a", example_requests.CLASSIFY)], "empty model name"),
    ],
)
@pytest.mark.compatible("Classify, Regress and MultiInference")
def test_refusals_of_multi_inference(tasks, message):
    with pytest.raises(StatusError, match=message):
        example_requests.split_multi(multi(*tasks))


@pytest.mark.compatible("Predict and metadata")
def test_metadata(half):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    response = requests.metadata(request, half.servable)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["regress"].method_name == "tensorflow/serving/regress"
    assert response.model_spec.version.value == 7
    for fields, message in (([], "at least one metadata_field"), (["x"], "Metadata field x is not supported")):
        with pytest.raises(StatusError, match=message):
            requests.metadata(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields), half.servable)
