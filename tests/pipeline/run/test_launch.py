import contextlib
import os
import signal
import threading
from concurrent import futures
from types import SimpleNamespace
from unittest import mock

import pytest

from pipeline.beam.runners import DIRECT
from pipeline.home import metadata_store
from pipeline.run.launch import BESIDE, ComponentFailed, PipelineRunner, Stopped, _ReadOnce

# What each depends on, in the order that TFX puts them in.
NODES = {
    "Trainer": [],
    "Evaluator": ["Trainer"],
    "FormatExport": ["Trainer"],
    "ServabilityCheck": ["Trainer"],
    "AtomicPusher": ["Evaluator", "FormatExport", "ServabilityCheck"],
}


class Run:
    """Runs the nodes with functions for some of them; the others end at once."""

    def __init__(self, **acts):
        self.acts, self.began = acts, []
        self.runner = PipelineRunner("run", None, None, DIRECT)

    def __call__(self):
        nodes = {name: SimpleNamespace(upstream_nodes=upstream) for name, upstream in NODES.items()}
        with futures.ThreadPoolExecutor() as threads:
            self.runner._run_nodes(nodes, self.launch, threads)

    def launch(self, name, node):
        self.began.append(name)
        assert (threading.current_thread() is threading.main_thread()) == (name not in BESIDE)
        self.acts.get(name, lambda: None)()


def fail(name):
    def act():
        raise ComponentFailed(name)

    return act


def test_what_waits_for_a_process_runs_beside_what_does_not():
    all_run = threading.Barrier(3, timeout=30)  # each waits for the others
    run = Run(Evaluator=all_run.wait, FormatExport=all_run.wait, ServabilityCheck=all_run.wait)
    run()
    assert (run.began[0], run.began[-1]) == ("Trainer", "AtomicPusher")
    assert set(run.began) == set(NODES)


@pytest.mark.parametrize("name", ["Evaluator", "ServabilityCheck"])
def test_a_failure_lets_the_others_come_to_their_end_and_stops_what_depends_on_it(name):
    ended, began = [], threading.Event()

    def end():
        began.set()
        ended.append("FormatExport")

    def fail_meanwhile():
        assert began.wait(30)
        fail(name)()

    run = Run(**{name: fail_meanwhile, "FormatExport": end})
    with pytest.raises(ComponentFailed, match=f"{name} failed"):
        run()
    assert ended == ["FormatExport"]
    assert "AtomicPusher" not in run.began


def test_a_stop_is_heeded_before_the_next_component():
    run = Run()
    run.acts["Evaluator"] = run.runner._stop.set
    with pytest.raises(Stopped, match=r"Stopped before AtomicPusher\. Run again to continue from there\."):
        run()
    assert set(run.began) == set(NODES) - {"AtomicPusher"}


@pytest.mark.parametrize("error", [RuntimeError("KeyboardInterrupt [while running 'Extract']"), KeyboardInterrupt()])
def test_ctrl_c_stays_ctrl_c_whatever_beam_makes_of_it(monkeypatch, error):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    canceled, ended = [], []
    monkeypatch.setattr(metadata_store, "cancel_failed", lambda *names: canceled.append(names[1:]))
    console = SimpleNamespace(start=lambda _: None, end=lambda name, state, _: ended.append((name, state)))
    runner = PipelineRunner("run", None, console, DIRECT)

    def launch():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()  # the handler ends it
        raise error

    try:
        with pytest.raises(KeyboardInterrupt), runner._seeing_interrupts():
            runner._launch("Evaluator", SimpleNamespace(launch=launch), mock.MagicMock())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert canceled == [("run", "Evaluator")]
    assert ended == [("Evaluator", "stopped")]


def test_executions_of_a_context_are_read_once_between_two_changes():
    read = []

    class Store:
        def get_executions_by_context(self, context):
            read.append(context)
            return [f"execution of {context}"]

        def put_executions(self, executions):
            return executions

    store = _ReadOnce(Store())
    for _ in range(2):
        assert store.get_executions_by_context(1) == ["execution of 1"]
    assert store.get_executions_by_context(2) == ["execution of 2"]
    assert read == [1, 2]
    assert store.put_executions([3]) == [3]
    store.get_executions_by_context(1)
    assert read == [1, 2, 1]
