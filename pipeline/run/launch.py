"""Launches the components of a compiled pipeline, and shows how each one goes."""

import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import apache_beam as beam
import tensorflow as tf
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto.metadata_store_pb2 import Execution
from tfx.dsl.compiler import constants
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils, tfx_runner
from tfx.orchestration.portable.beam_executor_operator import BeamExecutorOperator
from tfx.orchestration.portable.data_types import ExecutionInfo
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

from conveyor import processes
from conveyor.errors import ConveyorError
from pipeline.beam.runners import BeamRunner
from pipeline.home import metadata_store
from pipeline.home.metadata_store import STATES
from pipeline.run.console import Console

BESIDE = ("FormatExport", "ServabilityCheck")  # wait for a process of their own
CANCEL_SECONDS = 3  # for a cluster to answer


class ComponentFailed(ConveyorError):
    """A component raised; its error is the cause."""

    def __init__(self, component: str) -> None:
        super().__init__(f"{component} failed")
        self.component = component


class Stopped(ConveyorError):
    """SIGTERM came; the component that ran then has finished, or written a checkpoint."""


class PipelineRunner(tfx_runner.IrBasedRunner):
    """TFX's LocalDagRunner with a name of our own for the run, a line for each component, and no silent failures.

    A component whose work is a process of its own runs beside the others, as soon as its inputs are there.
    """

    def __init__(self, run_id: str, store: MetadataStore, console: Console, beam_runner: BeamRunner) -> None:
        self._run_id = run_id
        self._on_beam = {
            executable_spec_pb2.BeamExecutableSpec: functools.partial(_OnBeam, beam_runner, self._asked_to_stop)
        }
        self._store = store
        self._console = console
        self._stop = threading.Event()
        self._interrupted = False

    def run_with_ir(self, pipeline: pipeline_pb2.Pipeline, run_options: pipeline_pb2.RunOptions | None = None) -> None:
        """Runs every node after those that it depends on.

        Raises:
          ComponentFailed: the first component that fails; what runs beside it comes to its end, and nothing follows.
          Stopped: SIGTERM came before the last component.
        """
        runtime_parameter_utils.substitute_runtime_parameter(
            pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: self._run_id}
        )
        config = runner_utils.extract_local_deployment_config(pipeline)
        connection = config.metadata_connection_config
        connection = getattr(connection, connection.WhichOneof("connection_config"))
        shared = _SharedStore(connection, self._store)

        def launch(name: str, node: pipeline_pb2.PipelineNode) -> None:
            component = launcher.Launcher(
                pipeline_node=node,
                mlmd_connection=shared,
                pipeline_info=pipeline.pipeline_info,
                pipeline_runtime_spec=pipeline.runtime_spec,
                executor_spec=runner_utils.extract_executor_spec(config, name),
                custom_driver_spec=runner_utils.extract_custom_driver_spec(config, name),
                custom_executor_operators=self._on_beam,
            )
            self._launch(name, component, shared)

        nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in pipeline.nodes}
        with processes.on_stop(self._asked_to_stop), self._seeing_interrupts():
            threads = futures.ThreadPoolExecutor()
            try:
                self._run_nodes(nodes, launch, threads)
            finally:
                self._join(threads)

    def _asked_to_stop(self) -> None:
        self._stop.set()
        processes.tell("Stopping, as soon as what runs has come to its end, or a training to a checkpoint.")

    @contextlib.contextmanager
    def _seeing_interrupts(self) -> Iterator[None]:
        """Notes that Ctrl+C came, as long as the block lasts: Beam makes an error of its own of what it raises."""

        def interrupt(number: int, frame: Any) -> None:
            self._interrupted = True
            signal.default_int_handler(number, frame)

        sees = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the caller has other plans
        if sees:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            if sees:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _join(self, threads: futures.ThreadPoolExecutor) -> None:
        """Waits for what runs beside, which Ctrl+C kills; nothing may run on when the home is given up."""
        interrupt = sys.exc_info()[1]
        while True:
            if isinstance(interrupt, KeyboardInterrupt):
                self._stop.set()
                processes.kill_running()
            try:
                threads.shutdown()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if isinstance(interrupt, KeyboardInterrupt):
            raise interrupt

    def _run_nodes(
        self,
        waiting: dict[str, pipeline_pb2.PipelineNode],
        launch: Callable[[str, pipeline_pb2.PipelineNode], None],
        threads: futures.Executor,
    ) -> None:
        done: set[str] = set()
        beside: dict[futures.Future[None], str] = {}
        while waiting or beside:
            if waiting and self._stop.is_set():
                raise Stopped(f"Stopped before {next(iter(waiting))}. Run again to continue from there.")
            ready = [name for name, node in waiting.items() if done.issuperset(node.upstream_nodes)]
            name = min(ready, key=lambda name: name not in BESIDE, default=None)  # those first
            if name is None:
                futures.wait(beside, return_when=futures.FIRST_COMPLETED)
            elif name in BESIDE:
                beside[threads.submit(launch, name, waiting.pop(name))] = name
            else:
                launch(name, waiting.pop(name))
                done.add(name)
            for ended in [future for future in beside if future.done()]:
                done.add(beside.pop(ended))
                ended.result()

    def _launch(self, name: str, component: launcher.Launcher, shared: "_SharedStore") -> None:
        self._console.start(name)
        started = time.perf_counter()
        try:
            # What it traces, such as TensorFlow Model Analysis' metrics, has no control flow of Python's to convert.
            state = _state(tf.autograph.experimental.do_not_convert(component.launch)(), shared)
            if state == "failed":  # TFX publishes an input it cannot resolve as a failure, and raises nothing
                raise RuntimeError("its inputs could not be found in ML Metadata")
        except (Exception, KeyboardInterrupt) as error:
            if self._stop.is_set() or self._interrupted:
                with shared as handle:
                    metadata_store.cancel_failed(handle.store, self._run_id, name)
                self._console.end(name, "stopped", time.perf_counter() - started)
                raise (KeyboardInterrupt if self._interrupted else Stopped(str(error))) from error
            self._console.end(name, "failed", time.perf_counter() - started)
            raise ComponentFailed(name) from error
        self._console.end(name, state, time.perf_counter() - started)


class _OnBeam(BeamExecutorOperator):
    """Runs a component on the runner that this run has chosen.

    Arguments that the pipeline itself holds would be part of the key of TFX's cache, and make TFX pack itself into an
    archive for every component.
    """

    def __init__(
        self, runner: BeamRunner, stop: Callable[[], object], executor_spec: Any, platform_config: Any = None
    ) -> None:
        super().__init__(executor_spec, platform_config)
        self._runner = runner
        self._stop = stop

    def run_executor(self, execution_info: Any, _: Any = None) -> Any:
        jobs: list[beam.Pipeline] = []
        arguments = self._runner.arguments(getattr(self._executor_cls, "RELEASES_LOCK", False))

        def make() -> beam.Pipeline:
            jobs.append(beam.Pipeline(argv=arguments))
            return jobs[-1]

        if self._runner.is_here:
            return super().run_executor(execution_info, make)
        with processes.on_stop(self._give_up):
            try:
                return super().run_executor(execution_info, make)
            except BaseException:
                _cancel(jobs)
                processes.abandon_threads()  # of Beam's, some wait for an answer of a cluster for ever
                raise

    def _give_up(self) -> None:
        self._stop()
        raise Stopped("Stopped, and the job on Beam's cluster is canceled. Run again to continue from there.")


def _cancel(jobs: Sequence[beam.Pipeline]) -> None:
    """Cancels jobs on a cluster, unless it does not answer."""

    def cancel() -> None:
        for job in jobs:
            with contextlib.suppress(Exception):  # it has not begun, or has ended
                job.result.cancel()

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    thread.join(CANCEL_SECONDS)


class _SharedStore(metadata.Metadata):
    """ML Metadata for all components, which take turns.

    With a file they have one connection, where TFX opens another every time. A server's may be closed on its side while
    a network is trained: there TFX's way stays.
    """

    def __init__(self, connection: Any, store: MetadataStore) -> None:
        super().__init__(connection)
        self._shared = _ReadOnce(store) if connection.WhichOneof("config") == "sqlite" else None
        self._turn = threading.RLock()

    def __enter__(self) -> "_SharedStore":
        self._turn.acquire()
        try:
            if self._shared is None:
                super().__enter__()
            else:
                self._store = self._shared
            return self
        except BaseException:
            self._turn.release()
            raise

    def __exit__(self, *error: Any) -> None:
        try:
            if self._shared is None:
                super().__exit__(*error)
        finally:
            self._turn.release()


class _ReadOnce:
    """ML Metadata's store, which reads the executions of a run once between two changes.

    TFX reads them again for every channel of a component: with many spans, which have a channel each, for seconds.
    """

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._read: dict[int, Any] = {}

    def get_executions_by_context(self, context: int, *options: Any, **named: Any) -> Any:
        if options or named:
            return self._store.get_executions_by_context(context, *options, **named)
        if context not in self._read:
            self._read[context] = self._store.get_executions_by_context(context)
        return list(self._read[context])

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("get_"):
            self._read.clear()
        return getattr(self._store, name)


def _state(info: ExecutionInfo | None, shared: _SharedStore) -> str:
    """Returns how a component ended, as ML Metadata knows it."""
    if info is None or info.execution_id is None:
        return STATES[Execution.COMPLETE]  # a system node, such as a Resolver
    with shared as handle:
        return STATES[handle.store.get_executions_by_id([info.execution_id])[0].last_known_state]
