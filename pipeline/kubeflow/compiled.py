"""Writes a planned run as a pipeline of Kubeflow Pipelines, version 2, with TFX's own compiler.

A plan is of the data, the settings and the stable version of one moment: the next run is compiled anew.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conveyor.errors import ConfigError, ConveyorError, storage_errors
from pipeline.data.inputs import input_folder
from pipeline.experiments.config import Experiment
from pipeline.home.folders import Home
from pipeline.run.plan import make_plan

TASK = ("python", "-m", "pipeline.kubeflow.task")  # what a container runs, before TFX's arguments
EXTRA = "pip install 'conveyor-tfx[kubeflow]'"


class CompilerMissing(ConveyorError):
    """The protocol of Kubeflow Pipelines is not installed."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A pipeline of Kubeflow Pipelines.

    Attributes:
      name: the pipeline's.
      run_id: the run's, in the record of a version that it pushes.
      tasks: their names.
      file: where it was written.
    """

    name: str
    run_id: str
    tasks: tuple[str, ...]
    file: Path


def compile_run(
    experiment: Experiment,
    home: Home,
    source: Path | None,
    image: str,
    root: str,
    file: Path,
    say: Callable[[str], object],
) -> Compiled:
    """Plans a run of an experiment, and writes it as a pipeline; the network's code is staged in the home folder.

    Args:
      experiment: the settings.
      home: where models and checkpoints go, and where the containers find it too.
      source: folder of the data; may be None for a data set that can be fetched, or is in the home folder.
      image: of the containers; it must hold this version of Conveyor.
      root: where the artifacts of all runs of the pipeline go, such as `gs://bucket/conveyor`.
      file: the YAML file.
      say: told what is done.

    Raises:
      CompilerMissing: an extra is not installed.
      ConfigError: the experiment has spans, or settings that cannot be.
      ConveyorError: see `pipeline.run.runner.run`, as for the data and the home folder.
    """
    if not (importlib.util.find_spec("kfp") and importlib.util.find_spec("kfp.pipeline_spec")):
        raise CompilerMissing(f"A pipeline of Kubeflow is written with kfp-pipeline-spec: {EXTRA}.")
    import yaml
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

    from pipeline.run.graph import create_pipeline

    plan = make_plan(experiment, home, input_folder(experiment, home, source, say))
    if spans := [source.part.name for source in plan.inputs[1:]]:
        raise ConfigError(
            f"{experiment.name} trains on spans ({', '.join(spans)}), and TFX's compiler for Kubeflow knows no inputs "
            "of several parts: give it a folder of the data without them, or run it with `conveyor run`."
        )
    plan.stage_network()
    pipeline = create_pipeline(plan, None)
    pipeline.pipeline_info.pipeline_root = root
    config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
        default_image=image, default_commands=list(TASK), use_pipeline_spec_2_1=True
    )
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(config)
    spec = runner.run(pipeline, write_out=False)["pipelineSpec"]
    _without_drivers(spec)
    spec["defaultPipelineRoot"] = root
    with storage_errors(f"{file} cannot be written"):
        file.write_text(yaml.safe_dump(spec, sort_keys=True, allow_unicode=True), encoding="utf-8")
    return Compiled(experiment.name, plan.run_id, tuple(sorted(spec["root"]["dag"]["tasks"])), file)


def _without_drivers(spec: dict[str, Any]) -> None:
    """Takes TFX's driver of files out: the digest of the content, which is a parameter, says what it would look for."""
    for executor in spec["deploymentSpec"]["executors"].values():
        executor.get("container", {}).pop("lifecycle", None)
