"""What a container of a compiled pipeline runs: TFX's executor of one component.

    python -m pipeline.kubeflow.task --executor_class_path ... --json_serialized_invocation_args '{{$}}' ...

Kubeflow Pipelines and Vertex name artifacts by addresses of an object store, and show what is there as files:
`gs://bucket` at `/gcs/bucket`, and `s3://` and `minio://` at `/s3` and `/minio`. The components read and write files:
they get those paths, and what they answer has the addresses again.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.beam.runners import BeamRunner

STORES = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
GIVEN = "--json_serialized_invocation_args"


def main(arguments: Sequence[str]) -> None:
    """Runs a component, on Beam's runner that $CONVEYOR_BEAM names, or the direct one.

    Args:
      arguments: TFX's; what `GIVEN` says, is an `ExecutorInput` of Kubeflow Pipelines.
    """
    import apache_beam as beam
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor as tfx_task

    arguments = list(arguments)
    place = arguments.index(GIVEN) + 1
    told = json.loads(arguments[place])
    local = renamed(told, to_path)
    arguments[place] = json.dumps(local)
    runner = BeamRunner.chosen(Path(os.devnull))

    def make(executor: BaseBeamExecutor) -> beam.Pipeline:
        return beam.Pipeline(argv=runner.arguments(getattr(executor, "RELEASES_LOCK", False)))

    BaseBeamExecutor._make_beam_pipeline = make  # arguments of TFX's would make it pack itself into an archive
    tfx_task.main(tfx_task._parse_flags([sys.argv[0], *arguments]))
    answer = Path(local["outputs"]["outputFile"])
    answer.write_text(json.dumps(renamed(json.loads(answer.read_text()), _to_address(told))))


def renamed(value: Any, rename: Callable[[str], str]) -> Any:
    """Returns what JSON holds, with every `uri` and `outputFile` in it renamed."""
    if isinstance(value, list):
        return [renamed(each, rename) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: rename(each) if key in ("uri", "outputFile") and isinstance(each, str) else renamed(each, rename)
        for key, each in value.items()
    }


def to_path(address: str) -> str:
    """Returns where the content of an address is among the files; any other is what it was."""
    store = next((store for store in STORES if address.startswith(store)), None)
    return STORES[store] + address.removeprefix(store) if store else address


def _to_address(told: Any) -> Callable[[str], str]:
    """Returns what makes addresses of paths again, of the stores that were named."""
    named = {path: store for store, path in STORES.items() if store in json.dumps(told)}

    def rename(path: str) -> str:
        root = next((root for root in named if path.startswith(root)), None)
        return named[root] + path.removeprefix(root) if root else path

    return rename


if __name__ == "__main__":
    main(sys.argv[1:])
