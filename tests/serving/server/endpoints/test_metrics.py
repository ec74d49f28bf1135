import pickle

import pytest

from serving.server.endpoints import metrics as module
from serving.server.endpoints.metrics import Metrics


@pytest.mark.compatible("metrics")
def test_names_labels_and_format_are_the_real_servers():
    metrics = Metrics()
    metrics.request("m", "Predict", "GRPC", "OK", 0.000_02)
    metrics.request("m", "Predict", "GRPC", "OK", 5)
    metrics.request('we"ird\n', "Predict", "REST", "NOT_FOUND", 0.001)
    metrics.runtime("m", "Predict", 0.001)
    metrics.examples("m", 3)
    lines = metrics.text().splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2' in lines
    assert ':tensorflow:serving:request_count{model_name="we\\"ird\\n",status="NOT_FOUND"} 1' in lines
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    labels = 'model_name="m",API="Predict",entrypoint="GRPC"'
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="18"}} 0' in lines
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="32.4"}} 1' in lines
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="+Inf"}} 2' in lines
    assert f":tensorflow:serving:request_latency_sum{{{labels}}} 5000020" in lines
    assert f":tensorflow:serving:request_latency_count{{{labels}}} 2" in lines
    assert ':tensorflow:serving:runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 1' in lines
    assert ':tensorflow:serving:request_example_count_total{model="m"} 3' in lines


@pytest.mark.compatible(
    "metrics", differs="names of models that are not there are counted up to a thousand, and together after that"
)
def test_names_that_anybody_asks_for_are_counted_and_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST_NAMES", 2)
    metrics = Metrics()
    for name in ("a", "b", "c", "d", "a", "x" * 201):
        metrics.request(name, "Predict", "GRPC", "NOT_FOUND", 1.0)
    lines = [line for line in metrics.text().splitlines() if line.startswith(":tensorflow:serving:request_count")]
    assert [line.partition("{")[2] for line in lines] == [
        'model_name="a",status="NOT_FOUND"} 2',
        'model_name="b",status="NOT_FOUND"} 1',
        'model_name="(others)",status="NOT_FOUND"} 3',
    ]
    assert "request_latency_count" not in metrics.text()  # nothing was answered


def test_models_that_answer_are_counted_under_their_names_whatever_was_asked_before(monkeypatch):
    monkeypatch.setattr(module, "MOST_NAMES", 2)
    metrics = module.Metrics()
    for name in ("a", "b", "c"):
        metrics.request(name, "Predict", "GRPC", "NOT_FOUND", 0.1)
    metrics.request("mine", "Predict", "GRPC", "OK", 0.1)
    assert 'request_count{model_name="mine",status="OK"} 1' in metrics.text()


def test_names_of_several_processes_are_bounded_together(monkeypatch):
    monkeypatch.setattr(module, "MOST_NAMES", 2)
    whole = Metrics()
    for names in (("a", "b"), ("c", "d")):
        part = Metrics()
        for name in names:
            part.request(name, "Predict", "GRPC", "NOT_FOUND", 1.0)
        whole.absorb(part.take())
    counted = [line.partition("{")[2] for line in whole.text().splitlines() if ":request_count{" in line]
    assert counted == [
        f'model_name="{name}",status="NOT_FOUND"}} {n}' for name, n in (("a", 1), ("b", 1), ("(others)", 2))
    ]


def test_what_several_processes_have_counted_is_summed():
    parts, whole = [Metrics(), Metrics()], Metrics()
    for seconds, part in zip((0.001, 0.3), parts, strict=True):
        part.request("m", "Predict", "REST", "OK", seconds)
        part.examples("m", 3)
    for part in parts:
        whole.absorb(pickle.loads(pickle.dumps(part.take())))  # as between processes
    parts[0].request("m", "Predict", "REST", "NOT_FOUND", 1)
    whole.absorb(parts[0].take())
    whole.absorb(parts[0].take())  # nothing since
    alone = Metrics()
    for seconds in (0.001, 0.3):
        alone.request("m", "Predict", "REST", "OK", seconds)
        alone.examples("m", 3)
    alone.request("m", "Predict", "REST", "NOT_FOUND", 1)
    assert whole.text() == alone.text()
    assert 'request_count{model_name="m",status="OK"} 2' in whole.text()
