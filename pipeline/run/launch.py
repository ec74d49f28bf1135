"""Launches the components of a compiled pipeline, one after the other, and shows how each one goes."""

import threading
import time
from typing import Any

from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto.metadata_store_pb2 import Execution
from tfx.dsl.compiler import constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils, tfx_runner
from tfx.orchestration.portable.data_types import ExecutionInfo
from tfx.proto.orchestration import pipeline_pb2

from conveyor import processes
from conveyor.errors import ConveyorError
from pipeline.home import metadata_store
from pipeline.home.metadata_store import STATES
from pipeline.run.console import Console


class ComponentFailed(ConveyorError):
    """A component raised; its error is the cause."""

    def __init__(self, component: str) -> None:
        super().__init__(f"{component} failed")
        self.component = component


class Stopped(ConveyorError):
    """SIGTERM came; the component that ran then has finished, or written a checkpoint."""


class PipelineRunner(tfx_runner.IrBasedRunner):
    """TFX's LocalDagRunner with a name of our own for the run, a line for each component, and no silent failures."""

    def __init__(self, run_id: str, store: MetadataStore, console: Console) -> None:
        self._run_id = run_id
        self._store = store
        self._console = console
        self._stop = threading.Event()

    def run_with_ir(self, pipeline: pipeline_pb2.Pipeline, run_options: pipeline_pb2.RunOptions | None = None) -> None:
        """Runs every node in the pipeline's order, which is topological.

        Raises:
          ComponentFailed: the first component that fails; those after it do not run.
          Stopped: SIGTERM came before the last component.
        """
        runtime_parameter_utils.substitute_runtime_parameter(
            pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: self._run_id}
        )
        config = runner_utils.extract_local_deployment_config(pipeline)
        connection = config.metadata_connection_config
        connection = getattr(connection, connection.WhichOneof("connection_config"))
        with processes.on_stop(self._stop.set):
            self._run_nodes(pipeline, config, connection)

    def _run_nodes(self, pipeline: pipeline_pb2.Pipeline, config: Any, connection: Any) -> None:
        for node in pipeline.nodes:
            if self._stop.is_set():
                raise Stopped(f"Stopped before {node.pipeline_node.node_info.id}. Run again to continue from there.")
            name = node.pipeline_node.node_info.id
            component = launcher.Launcher(
                pipeline_node=node.pipeline_node,
                mlmd_connection=metadata.Metadata(connection),
                pipeline_info=pipeline.pipeline_info,
                pipeline_runtime_spec=pipeline.runtime_spec,
                executor_spec=runner_utils.extract_executor_spec(config, name),
                custom_driver_spec=runner_utils.extract_custom_driver_spec(config, name),
            )
            self._launch(name, component)

    def _launch(self, name: str, component: launcher.Launcher) -> None:
        self._console.start(name)
        started = time.perf_counter()
        try:
            state = self._state(component.launch())
            if state == "failed":  # TFX publishes an input it cannot resolve as a failure, and raises nothing
                raise RuntimeError("its inputs could not be found in ML Metadata")
        except Exception as error:
            if self._stop.is_set():
                metadata_store.cancel_failed(self._store, self._run_id, name)
                self._console.end(name, "stopped", time.perf_counter() - started)
                raise Stopped(str(error)) from error
            self._console.end(name, "failed", time.perf_counter() - started)
            raise ComponentFailed(name) from error
        self._console.end(name, state, time.perf_counter() - started)

    def _state(self, info: ExecutionInfo | None) -> str:
        if info is None or info.execution_id is None:
            return STATES[Execution.COMPLETE]  # a system node, such as a Resolver
        return STATES[self._store.get_executions_by_id([info.execution_id])[0].last_known_state]
