import contextlib
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.server.protocol import json_replies, json_requests
from serving.server.protocol.errors import StatusError


def infos(**dtypes):
    return {name: meta_graph_pb2.TensorInfo(dtype=dtype.as_datatype_enum) for name, dtype in dtypes.items()}


X = infos(x=tf.float32)


def arrays(body, inputs=X):
    return json_requests.predict_inputs(json_requests.parse(json.dumps(body).encode()), inputs)


@pytest.mark.compatible("JSON requests")
def test_rows_and_columns():
    found, rows = arrays({"instances": [[1, 2], [3.5, 4]]})
    assert rows
    assert found["x"].dtype == np.float32
    assert found["x"].tolist() == [[1, 2], [3.5, 4]]
    found, rows = arrays({"inputs": {"x": [[1]]}})
    assert not rows
    assert found["x"].shape == (1, 1)
    assert arrays({"inputs": [1, 2]})[0]["x"].tolist() == [1, 2]
    assert arrays({"inputs": 3})[0]["x"].shape == ()


@pytest.mark.compatible("JSON requests")
def test_named_inputs_in_rows():
    two = infos(tag=tf.string, signal=tf.int64)
    rows = [{"tag": "foo", "signal": [1, 2]}, {"tag": {"b64": "YmFy"}, "signal": [3, 4]}]
    found, _ = arrays({"instances": rows}, two)
    assert found["tag"].tolist() == [b"foo", b"bar"]
    assert found["signal"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.compatible("JSON requests")
def test_bytes_in_base64_with_and_without_padding():
    found, _ = arrays({"instances": [{"b64": "aGk="}, {"b64": "aGk"}]}, infos(image_bytes=tf.string))
    assert found["image_bytes"].tolist() == [b"hi", b"hi"]


@pytest.mark.compatible("JSON requests")
def test_any_number_is_taken_for_a_float():
    found, _ = arrays({"inputs": [1435774380, 2**24 + 1, 1e39, -1e39, 2**70]})
    assert found["x"].tolist() == [1435774336, 2**24, math.inf, -math.inf, 2**70]
    found, _ = arrays({"inputs": [2**53 + 1, 1e39]}, infos(x=tf.float64))
    assert found["x"].tolist() == [2**53, 1e39]


@pytest.mark.compatible("JSON requests")
def test_nan_and_infinities_are_numbers():
    found, _ = json_requests.predict_inputs(json_requests.parse(b'{"inputs": [NaN, Infinity, -Infinity]}'), X)
    values = found["x"].tolist()
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        ({}, X, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, X, "only one of 'inputs' or 'instances'"),
        ({"instances": 3}, X, "JSON Value: 3 Excepting 'instances' to be an list/array"),
        ({"instances": []}, X, "No values in 'instances' array"),
        (
            {"instances": [[1, 2], [3]]}, X,
            "^Failed to process element: 1 of 'instances' list. "
            "Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1$",
        ),
        ({"instances": [[1], 2]}, X, r"element: 1 of 'instances' list.*Expecting shape \[1\] but got: \[\]$"),
        ({"instances": [[[1, 2]], [[1], [2]]]}, X, r"Expecting shape \[1,2\] but got: \[2,1\]$"),
        ({"instances": [1, [2, 3]]}, X, "element: 1 of 'instances' list.*Expecting tensor size: 1 but got: 2$"),
        ({"instances": [[[1, 2], [3]]]}, X, "Encountered list at unexpected size: 1 at level: 1 expected size: 2$"),
        ({"inputs": [[1, 2], [3]]}, X, "^Encountered list at unexpected size: 1 at level: 1 expected size: 2$"),
        ({"inputs": [[1], 2]}, X, "^JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2$"),
        ({"inputs": [1, [2]]}, X, "^Encountered list at unexpected level: 1 expected < 1$"),
        ({"instances": [{"x": [1], "z": 2}]}, X, "element: 0 key: z of .*does not have named input: z$"),
        ({"inputs": [False]}, X, "^JSON Value: false Type: False is not of expected type: float$"),
        ({"instances": ["a"]}, X, 'JSON Value: "a" Type: String is not of expected type: float'),
        ({"instances": [True]}, X, "is not of expected type: float"),
        ({"instances": [None]}, X, "Type: Null"),
        ({"instances": [{}]}, X, "element: 0 of 'instances' list. JSON object: {} keys must be equal to: x$"),
        ({"instances": [{"x": 1}, 2]}, X, "Expecting object but got list at item 1"),
        ({"instances": [1, {"x": 1}]}, X, "Expecting value/list but got object at item 1"),
        ({"instances": [1]}, infos(x=tf.float32, y=tf.float32), "multiple input tensors required"),
        ({"inputs": [1]}, infos(x=tf.float32, y=tf.float32), "multiple input tensors required"),
        ({"inputs": {"y": [1]}}, X, "Missing named input: x in 'inputs' object."),
        ({"instances": [300]}, infos(x=tf.uint8), "300 Type: Number is not of expected type: uint8"),
        ({"instances": [1.5]}, infos(x=tf.int64), "is not of expected type: int64"),
        ({"instances": [1]}, infos(x=tf.string), "is not of expected type: string"),
        ({"instances": [{"b64": "!!"}]}, infos(x=tf.string), "Unable to base64 decode"),
        ({"instances": [1]}, infos(x=tf.bool), "is not of expected type: bool"),
    ],
)  # fmt: skip
@pytest.mark.compatible("JSON requests")
def test_what_is_wrong_is_said(body, inputs, message):
    with pytest.raises(StatusError, match=message) as error:
        arrays(body, inputs)
    assert error.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The document is empty"),
        (b"[1]", "Is not object"),
        (b"{", "JSON Parse error"),
        (b"\xff", "JSON Parse error"),
        (b'{"instances": [NaN}', "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        (b"[NaN," + b"[" * 100_000, "JSON Parse error"),
        (b'{"signature_name": "\\ud800", "instances": [NaN]}', "surrogates not allowed"),
    ],
)
@pytest.mark.compatible("JSON requests")
def test_what_is_no_json_is_refused(body, message):
    with pytest.raises(StatusError, match=message):
        json_requests.parse(body)


def reply(rows, **outputs):
    return json.loads(json_replies.predict_reply(dict(sorted(outputs.items())), rows))


@pytest.mark.compatible("JSON replies")
def test_replies_in_rows_and_columns():
    scores, names = np.array([[0.1, 0.2]], np.float32), np.array([[b"a", b"b"]], object)
    assert reply(True, scores=scores) == {"predictions": [[0.1, 0.2]]}
    assert reply(True, scores=scores, names=names) == {"predictions": [{"names": ["a", "b"], "scores": [0.1, 0.2]}]}
    assert reply(False, scores=scores) == {"outputs": [[0.1, 0.2]]}
    assert reply(False, scores=scores, names=names) == {"outputs": {"names": [["a", "b"]], "scores": [[0.1, 0.2]]}}
    assert reply(False, one=np.float32(0.1)) == {"outputs": 0.1}
    assert reply(True, label=np.array([3, 4])) == {"predictions": [3, 4]}


@pytest.mark.compatible("JSON replies")
def test_names_that_end_in_bytes_are_base64():
    raw = np.array([b"\x00\xff"], object)
    assert reply(True, image_bytes=raw) == {"predictions": [{"b64": "AP8="}]}
    assert reply(False, image_bytes=raw) == {"outputs": [{"b64": "AP8="}]}


@pytest.mark.compatible("JSON replies")
def test_floats_have_the_digits_of_their_type_and_nan_its_name():
    values = np.array([np.nan, np.inf, -np.inf, 0.1], np.float32)
    assert json_replies.predict_reply({"x": values}, False) == b'{"outputs": [NaN, Infinity, -Infinity, 0.1]}'


def test_what_json_has_no_numbers_for_is_refused():
    with pytest.raises(StatusError, match="Type complex64 cannot be written as JSON"):
        reply(True, x=np.ones(2, np.complex64))


@pytest.mark.compatible("JSON replies")
def test_rows_need_one_length():
    with pytest.raises(StatusError, match="inconsistent batch sizes"):
        reply(True, a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(StatusError, match="has no shape information"):
        reply(True, a=np.float32(1))


@pytest.mark.compatible("JSON requests")
def test_examples_of_classify_and_regress():
    body = {
        "signature_name": "s",
        "context": {"lang": "en"},
        "examples": [{"age": 50, "height": [1.5, 2.5], "photo": {"b64": "aGk="}, "ok": True}],
    }
    request = json_requests.classification_request(body)
    features = request.input.example_list_with_context.examples[0].features.feature
    assert features["age"].int64_list.value == [50]
    assert features["height"].float_list.value == [1.5, 2.5]
    assert features["photo"].bytes_list.value == [b"hi"]
    assert features["ok"].int64_list.value == [1]
    context = request.input.example_list_with_context.context.features.feature
    assert context["lang"].bytes_list.value == [b"en"]
    assert json_requests.signature_name(body) == "s"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "When method is regress, key 'examples' is expected and was not found"),
        ({"examples": {}}, "to be an list/array"),
        ({"examples": []}, "is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"a": [1, 2.5]}]}, "Unexpected element type in feature: a"),
        ({"examples": [{"a": None}]}, "unexpected JSON type: Null"),
        ({"examples": [{"a": [[1]]}]}, "unexpected JSON type: Array"),
        ({"examples": [{"a": 2**63}]}, "uint64 element"),
        ({"examples": [{"a": 1e40}]}, "without loss of precision"),
    ],
)
@pytest.mark.compatible("JSON requests")
def test_wrong_examples_are_told(body, message):
    with pytest.raises(StatusError, match=message):
        json_requests.regression_request(body)


@pytest.mark.compatible("JSON replies")
def test_results_of_classify_and_regress():
    classified = classification_pb2.ClassificationResponse()
    classified.result.classifications.add().classes.add(label="cat", score=0.1)
    assert json.loads(json_replies.classification_reply(classified)) == {"results": [[["cat", 0.1]]]}
    regressed = regression_pb2.RegressionResponse()
    regressed.result.regressions.add(value=0.3)
    assert json.loads(json_replies.regression_reply(regressed)) == {"results": [0.3]}


@pytest.mark.compatible("JSON requests")
def test_signature_name_must_be_text():
    with pytest.raises(StatusError, match="'signature_name' key must be a string value"):
        json_requests.signature_name({"signature_name": 1})


SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=3)
KINDS = [np.float32, np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_]


@given(st.sampled_from(KINDS).flatmap(lambda kind: hnp.arrays(kind, SHAPES)), st.booleans())
def test_any_array_goes_there_and_back_as_json(array, rows):
    dtype = tf.as_dtype(array.dtype)
    body = {"instances" if rows else "inputs": array.tolist()}
    found = arrays(body, infos(x=dtype))[0]["x"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")
    text = json_replies.predict_reply({"y": array}, rows)
    again = np.array(json.loads(text)["predictions" if rows else "outputs"], array.dtype)
    assert np.array_equal(again, array, equal_nan=array.dtype.kind == "f")


ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["x", "b64", "t", "y"]), inner, max_size=3)
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"]), ANY)


@given(DOCUMENTS, st.sampled_from([infos(x=tf.float32), infos(x=tf.string), infos(x=tf.int64, t=tf.bool)]))
def test_any_document_is_read_or_refused(document, inputs):
    parsed = json_requests.parse(json.dumps(document).encode())
    for read in (
        json_requests.signature_name,
        lambda document: json_requests.predict_inputs(document, inputs),
        json_requests.classification_request,
        json_requests.regression_request,
    ):
        with contextlib.suppress(StatusError):
            read(parsed)


@given(st.one_of(st.binary(max_size=30), st.text('{}[]":,NaInfity01', max_size=20).map(str.encode)))
def test_any_body_is_an_object_or_refused(body):
    with contextlib.suppress(StatusError):
        assert isinstance(json_requests.parse(body), dict)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"instances": [[NaN], [1' + b"0" * 400 + b"]]}", "a number is too large for float"),
        (b'{"instances": [' + b"1," * 300_000 + b'"a"]}', 'JSON Value: "a" Type: String is not of expected type'),
        (b'{"instances": [0' + b",0" * 300_000 + b'], "inputs": 1}', "only one of 'inputs' or 'instances'"),
    ],
)
def test_long_and_odd_bodies_are_explained_in_short(body, words):
    with pytest.raises(StatusError) as error:
        json_requests.predict_inputs(json_requests.parse(body), X)
    assert error.value.code == "INVALID_ARGUMENT"
    assert words in error.value.message
    assert len(error.value.message) < 600


@pytest.mark.compatible("JSON requests")
def test_nothing_of_a_type_that_json_has_not_is_a_sentence():
    with pytest.raises(StatusError, match=r"Conversion of JSON Value: \[\] to type: complex64"):
        arrays({"instances": [[]]}, infos(x=tf.complex64))
