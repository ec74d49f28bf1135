"""A compiled pipeline: each task's command is run as Kubeflow Pipelines would, and its SDK reads the file."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving.model_store.records import RECORD
from tests.extras import environment, extra

LOAD = "import sys; from kfp import components; print(components.load_component_from_file(sys.argv[1]).name)"


@pytest.fixture
def compiled(request, conveyor, monkeypatch):
    """Compiles a run on some digits."""
    if sys.version_info[:2] != (3, 10):
        pytest.skip("needs kfp-pipeline-spec for TFX 1.16")
    monkeypatch.setenv("PYTHONPATH", str(extra(request, "kubeflow")))

    def run(*options):
        file = conveyor.folder / "digits.yaml"
        arguments = [conveyor.experiment, "--data", conveyor.data, "--image", "conveyor:1"]
        arguments += ["--root", conveyor.folder / "root", "--output", file]
        code, out = conveyor("compile", *arguments, *options)
        return code, out, file

    return run


class Kubeflow:
    """Runs a pipeline's tasks one after the other, each with the input that the backend would give it."""

    def __init__(self, file: Path) -> None:
        self.spec = yaml.safe_load(file.read_text())
        self.root = Path(self.spec["defaultPipelineRoot"])
        self.outputs = {}  # of each task: artifacts by name

    def run(self) -> None:
        tasks = dict(self.spec["root"]["dag"]["tasks"])
        while tasks:
            name = next(
                name for name, task in tasks.items() if set(task.get("dependentTasks", ())) <= set(self.outputs)
            )
            task = tasks.pop(name)
            component = self.spec["components"][task["componentRef"]["name"]]
            executor = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]
            how = self._import if "importer" in executor else self._container
            self.outputs[name] = how(name, task, component, executor)

    def _import(self, name, task, component, executor):
        importer = executor["importer"]
        ((key, definition),) = component["outputDefinitions"]["artifacts"].items()
        uri = importer["artifactUri"].get("constant") or task["inputs"]["parameters"]["uri"]["runtimeValue"]["constant"]
        return {key: self._artifact(name, key, uri, definition["artifactType"], importer.get("metadata", {}))}

    def _container(self, name, task, component, executor):
        parameters = task.get("inputs", {}).get("parameters", {})
        taken = task.get("inputs", {}).get("artifacts", {})
        folder = self.root / name
        made = component.get("outputDefinitions", {}).get("artifacts", {})
        given = {
            "inputs": {
                "parameterValues": {key: value["runtimeValue"]["constant"] for key, value in parameters.items()},
                "artifacts": {key: {"artifacts": [self._taken(value)]} for key, value in taken.items()},
            },
            "outputs": {
                "artifacts": {
                    key: {"artifacts": [self._artifact(name, key, str(folder / key), value["artifactType"], {})]}
                    for key, value in made.items()
                },
                "outputFile": str(folder / "executor_output.json"),
            },
        }
        for key in made:
            (folder / key).mkdir(parents=True)
        container = executor["container"]
        words = [*container["command"], *container["args"]]
        words = [json.dumps(given) if word == "{{$}}" else word for word in words]
        assert words[0] == "python"
        done = subprocess.run([sys.executable, *words[1:]], cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
        answer = json.loads((folder / "executor_output.json").read_text())
        planned = given["outputs"]["artifacts"]  # with the types, which an answer does not repeat
        return {
            key: planned[key]["artifacts"][0] | value["artifacts"][0]
            for key, value in answer.get("artifacts", {}).items()
        }

    def _taken(self, value):
        producer = value["taskOutputArtifact"]
        return self.outputs[producer["producerTask"]][producer["outputArtifactKey"]]

    def _artifact(self, name, key, uri, kind, metadata):
        return {"name": f"{name}/{key}", "uri": uri, "type": kind, "metadata": metadata}


def test_each_task_runs_as_kubeflow_would_up_to_a_pushed_model(compiled, conveyor):
    code, out, file = compiled()
    assert code == 0, out
    run = re.search(r"\d tasks of run (digits-\S+) are in", out)[1]
    Kubeflow(file).run()
    assert conveyor.versions() == ["1"]
    record = json.loads((conveyor.home / "serving" / "digits" / "1" / RECORD).read_text())
    assert record["run"] == run
    assert conveyor.labels()["stable"] == 1


def test_the_sdk_of_kubeflow_pipelines_reads_it(compiled, tmp_path):
    code, out, file = compiled()
    assert code == 0, out
    python = environment(tmp_path / "kfp", "kfp")
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", LOAD, file], env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "digits"


def test_what_cannot_be_compiled_is_told(compiled, conveyor, days, monkeypatch):
    conveyor.data = shutil.copytree(conveyor.data, conveyor.folder / "data")
    code, out = conveyor.add(days[0])
    assert code == 0, out
    code, out, file = compiled()
    assert code == 2
    assert "digits trains on spans (span-1), and TFX's compiler for Kubeflow knows no inputs of several parts" in out
    monkeypatch.delenv("PYTHONPATH")
    code, out, file = compiled()
    assert code == 1
    assert "A pipeline of Kubeflow is written with kfp-pipeline-spec: pip install 'conveyor-tfx[kubeflow]'." in out
    assert not file.exists()
