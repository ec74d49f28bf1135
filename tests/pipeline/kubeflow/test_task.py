import json

from pipeline.kubeflow import task


def test_addresses_of_stores_become_paths_and_paths_addresses_again():
    told = {
        "inputs": {"artifacts": {"model": {"artifacts": [{"uri": "gs://bucket/model", "metadata": {"uri": 3}}]}}},
        "outputs": {"outputFile": "s3://other/output.json", "artifacts": {"x": {"artifacts": [{"uri": "/plain"}]}}},
    }
    local = task.renamed(told, task.to_path)
    assert local["inputs"]["artifacts"]["model"]["artifacts"] == [{"uri": "/gcs/bucket/model", "metadata": {"uri": 3}}]
    assert local["outputs"]["outputFile"] == "/s3/other/output.json"
    assert local["outputs"]["artifacts"] == told["outputs"]["artifacts"]
    assert task.renamed(local, task._to_address(told)) == told


def test_a_path_of_a_store_that_nobody_named_stays_what_it_is():
    assert task._to_address(json.loads("{}"))("/gcs/bucket/model") == "/gcs/bucket/model"
