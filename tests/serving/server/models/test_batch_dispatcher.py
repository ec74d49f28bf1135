import asyncio
import concurrent.futures
import time

import numpy as np
import pytest
import uvloop

from serving.server.models import batch_dispatcher, batching
from serving.server.models.batch_dispatcher import BatchDispatcher
from serving.server.models.batching import BatchingParameters, Queue, Waiting
from serving.server.models.bundle import SavedModelBundle
from serving.server.models.replica import LoadedVersion
from serving.server.protocol.errors import StatusError
from serving.server.protocol.requests import PreparedRequest


class Users:
    """Counts who uses a version, as the manager does."""

    def __init__(self) -> None:
        self.now = 0

    def acquire(self, version) -> None:
        self.now += 1

    def release(self, version) -> None:
        self.now -= 1


class Counting(SavedModelBundle):
    """Counts the calls into TensorFlow, and the rows of each."""

    rows: list[int]

    def run(self, name, inputs, outputs=()):
        self.rows.append(len(inputs[0]) if inputs[0].ndim else 0)
        return super().run(name, inputs, outputs)


def load(base, **parameters):
    made = Counting(
        base / "1", batching=BatchingParameters(**{"max_batch_size": 8, "num_batch_threads": 1} | parameters)
    )
    made.rows = []
    return made


@pytest.fixture
def bundle(shapes):
    made = load(shapes)
    yield made
    made.close()


def job(signature, outputs, *inputs):
    return PreparedRequest(signature, inputs, outputs, list)


def ask(bundle, jobs, limit=100, most_bytes=2**20):
    """Runs jobs at once; returns their outputs or failures, and what the runner left."""
    users = Users()
    version = LoadedVersion("m", 1, bundle.path, bundle=bundle)

    async def all_at_once():
        runner = BatchDispatcher(users, threads=4, limit=limit, most_bytes=most_bytes)
        answers = await asyncio.gather(*(runner.run(version, one) for one in jobs), return_exceptions=True)
        while runner._requests:  # with parts of a request of which one has failed
            await asyncio.sleep(0.001)
        await runner.close()
        assert (runner._requests, runner._input_bytes, sum(map(len, runner._queues.values()))) == (0, 0, 0)
        return answers

    answers = asyncio.run(all_at_once())
    assert users.now == 0
    return [str(answer.code) if isinstance(answer, StatusError) else [v.tolist() for v in answer] for answer in answers]


def adding(a, b):
    return job("add", ["sum"], np.array(a), np.array(b))


@pytest.mark.compatible("batching")
def test_requests_at_once_are_handed_over_together_and_each_gets_its_own_rows(bundle):
    jobs = [adding([i, i + 1], [10, 20]) for i in range(6)]
    assert ask(bundle, jobs) == [[[i + 10, i + 21]] for i in range(6)]
    assert sorted(bundle.rows) == [4, 8], "twelve rows, in parts of at most a batch"


@pytest.mark.compatible(
    "batching",
    differs="a batch that fails is run again request by request: good ones are answered; there all fail",
)
def test_a_bad_request_of_a_group_fails_alone(bundle):
    values = [4.0, -1.0, 9.0]
    answers = ask(bundle, [job("checked", ["root"], np.array([v], np.float32)) for v in values])
    assert answers == [[[2.0]], "INVALID_ARGUMENT", [[3.0]]]


def test_lengths_that_would_only_fit_together_are_refused_each(bundle):
    assert ask(bundle, [adding([1, 2], [1, 2, 3]), adding([1, 2, 3], [1, 2]), adding([5], [6])]) == [
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        [[11]],
    ]


@pytest.mark.compatible(
    "batching", differs="rows of different shapes are not joined; they fail there, unless they are padded"
)
def test_other_shapes_and_chosen_outputs_do_not_mix(bundle):
    halves = [job("half", ["positive"], np.ones(shape, np.float16)) for shape in ((1, 2), (1, 3))]
    both = [job("add", ["difference", "sum"], np.array([5]), np.array([2])), adding([1], [1])]
    assert ask(bundle, [*halves, *both]) == [[[[True] * 2]], [[[True] * 3]], [[3], [7]], [[2]]]


def test_more_than_the_limit_is_refused_at_once(bundle):
    answers = ask(bundle, [adding([i], [i]) for i in range(5)], limit=3)
    assert answers == [[[0]], [[2]], [[4]], "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]


def test_signatures_that_cannot_be_batched_run_by_themselves(bundle):
    assert ask(bundle, [job("scalar", ["twice"], np.float32(v)) for v in (1, 2)]) == [[2.0], [4.0]]


def test_inputs_of_more_than_the_memory_for_them_are_refused_at_once_but_one_alone(bundle):
    answers = ask(bundle, [adding([i] * 4, [i] * 4) for i in range(3)], most_bytes=100)  # each of 64 bytes
    assert [answer if isinstance(answer, str) else "OK" for answer in answers] == [
        "OK",
        "RESOURCE_EXHAUSTED",
        "RESOURCE_EXHAUSTED",
    ]
    assert ask(bundle, [adding([1] * 100, [1] * 100)], most_bytes=100)[0][0] == [2] * 100


@pytest.mark.compatible("batching")
def test_a_part_of_a_batch_waits_for_the_timeout(shapes):
    bundle = load(shapes, batch_timeout_micros=50_000)
    started = time.monotonic()
    assert len(ask(bundle, [adding([i], [i]) for i in range(7)])) == 7
    assert time.monotonic() - started >= 0.05
    assert bundle.rows == [7]
    bundle.close()


@pytest.mark.compatible("batching")
def test_what_fills_a_batch_up_ends_its_waiting(shapes):
    bundle = load(shapes, batch_timeout_micros=60_000_000)

    async def one_after_the_other():
        runner = BatchDispatcher(Users(), threads=4, limit=100)
        version = LoadedVersion("m", 1, bundle.path, bundle=bundle)
        tasks = []
        for i in range(8):
            tasks.append(asyncio.create_task(runner.run(version, adding([i], [i]))))
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        await runner.close()

    asyncio.run(one_after_the_other())
    assert bundle.rows == [8]
    bundle.close()


@pytest.mark.compatible(
    "batching", differs="a request with more rows than a batch may have runs by itself; it is refused there"
)
def test_more_rows_than_a_batch_may_have_run_by_themselves(bundle):
    assert ask(bundle, [adding([1], [1]), adding([1] * 20, [1] * 20), adding([2], [2])]) == [
        [[2]], [[2] * 20], [[4]],
    ]  # fmt: skip
    assert sorted(bundle.rows) == [1, 1, 20]


@pytest.mark.compatible("batching")
def test_a_large_request_is_run_in_parts_where_they_are_split(shapes):
    bundle = load(shapes, max_batch_size=16, enable_large_batch_splitting=True, max_execution_batch_size=4)
    assert ask(bundle, [adding(list(range(11)), [1] * 11)]) == [[list(range(1, 12))]]
    assert sorted(bundle.rows) == [3, 4, 4]
    bundle.rows.clear()
    bad = job("checked", ["root"], np.array([4, -1, 9, 16, 25], np.float32))
    assert ask(bundle, [bad]) == ["INVALID_ARGUMENT"]
    bundle.close()


@pytest.mark.compatible("batching")
def test_padding_is_cut_off(shapes):
    bundle = load(shapes, allowed_batch_sizes=(4, 8))
    assert ask(bundle, [adding([2, 4, 6], [1, 1, 1])]) == [[[3, 5, 7]]]
    assert bundle.rows == [4]
    bundle.close()


@pytest.mark.compatible("batching")
def test_more_batches_than_may_wait_are_refused(shapes):
    bundle = load(shapes, max_batch_size=2, max_enqueued_batches=2)
    answers = ask(bundle, [adding([i, i], [i, i]) for i in range(5)])
    assert answers == [[[2 * i] * 2] for i in range(3)] + ["UNAVAILABLE"] * 2, "one runs, two wait"
    bundle.close()


@pytest.mark.compatible("batching")
def test_inputs_without_rows_or_with_different_numbers_of_them_are_refused(bundle):
    assert ask(bundle, [adding(1, 1), adding([1, 2], [1, 2, 3])]) == ["INVALID_ARGUMENT"] * 2
    assert bundle.rows == []


def waiting(rows, since):
    return Waiting(adding([0] * rows, [0] * rows), rows, 0, concurrent.futures.Future(), since)


@pytest.mark.compatible(
    "batching",
    differs="without a timeout, clients that were just answered are waited for while they ask again: fuller batches",
)
def test_clients_that_ask_again_at_once_are_waited_for():
    queue = Queue(BatchingParameters(max_batch_size=8))
    queue.add(waiting(1, since=0))
    assert queue.seconds_to_wait(now=0) == 0, "the first waits for nobody"
    queue.take()
    queue.add(waiting(2, since=1))
    queue.finished(rows=1, now=6)
    assert 0 < queue.seconds_to_wait(now=6) < 2 * batching.QUIET, "those that waited are joined by those just answered"
    queue.take()
    queue.finished(rows=2, now=7)
    queue.add(waiting(1, since=7))
    assert 0 < queue.seconds_to_wait(now=7) < 2 * batching.QUIET, "there were two"
    assert queue.seconds_to_wait(now=7 + 2 * batching.QUIET) < 0, "nobody else comes"
    for i in range(1, 100):
        queue.last_seen = 7 + i * batching.QUIET / 2
        if queue.seconds_to_wait(now=queue.last_seen) <= 0:
            break
    assert queue.last_seen == pytest.approx(7 + batching.PATIENCE, abs=batching.QUIET), "nor does it wait for ever"
    queue.add(waiting(1, since=8))
    assert queue.seconds_to_wait(now=8) == 0, "all are there"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_requests_on_either_event_loop(shapes, new_loop):
    bundle = load(shapes, batch_timeout_micros=400)
    loop = new_loop()

    async def clients():
        runner = BatchDispatcher(Users(), threads=4, limit=100)
        version, looks = LoadedVersion("m", 1, bundle.path, bundle=bundle), []
        look = runner._run_due
        runner._run_due = lambda key: looks.append(key) or look(key)

        async def client():
            return [(await runner.run(version, adding([i], [1])))[0].tolist() for i in range(20)]

        answers = await asyncio.gather(*(client() for _ in range(3)))
        await runner.close()
        return answers, len(looks)

    answers, looks = loop.run_until_complete(clients())
    assert answers == [[[i + 1] for i in range(20)]] * 3
    assert looks < 600, "no busy loop"
    loop.close()
    bundle.close()


def test_what_waits_for_a_client_that_has_gone_is_let_go(shapes):
    bundle, users = load(shapes, batch_timeout_micros=60_000_000), Users()

    async def gone():
        runner = BatchDispatcher(users, threads=4, limit=100)
        version = LoadedVersion("m", 1, bundle.path, bundle=bundle)
        task = asyncio.create_task(runner.run(version, adding([1], [1])))
        await asyncio.sleep(0.01)
        assert users.now == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
        assert (users.now, runner._requests, runner._input_bytes) == (0, 0, 0)
        await runner.close()

    asyncio.run(gone())
    assert bundle.rows == []
    bundle.close()


def test_what_others_ask_runs_between_the_parts_of_a_split_request(shapes):
    bundle = load(
        shapes, max_batch_size=100, max_enqueued_batches=2, enable_large_batch_splitting=True,
        max_execution_batch_size=4,
    )  # fmt: skip
    large, small = adding([1] * 40, [1] * 40), adding([1], [1])
    assert ask(bundle, [large, small]) == [[[2] * 40], [[2]]]
    assert sorted(bundle.rows) == [1, *[4] * 10]
    assert bundle.rows.index(1) < 5
    bundle.close()


@pytest.mark.parametrize("rows", [40, 42])
def test_outputs_that_are_not_rows_are_not_put_together_of_parts(shapes, caplog, rows):
    bundle = load(shapes, max_batch_size=100, enable_large_batch_splitting=True, max_execution_batch_size=4)
    run = bundle.run
    bundle.run = lambda name, inputs, outputs=(): [value.sum(keepdims=True) for value in run(name, inputs, outputs)]
    large = adding([1] * rows, [1] * rows)
    assert ask(bundle, [large]) == [[[2 * rows]]]
    assert "are not split any more" in caplog.text
    bundle.close()


def test_a_split_request_whose_client_has_gone_leaves_nothing_behind(shapes):
    bundle = load(shapes, max_batch_size=100, enable_large_batch_splitting=True, max_execution_batch_size=4)

    async def gone():
        users = Users()
        runner = BatchDispatcher(users, threads=2, limit=100)
        version = LoadedVersion("m", 1, bundle.path, bundle=bundle)
        asking = asyncio.create_task(runner.run(version, adding([1] * 4000, [1] * 4000)))
        while len(bundle.rows) < 3:
            await asyncio.sleep(0.001)
        assert runner._input_bytes == 2 * 4000 * 8
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await runner.close()
        assert (users.now, runner._requests, runner._input_bytes) == (0, 0, 0)

    asyncio.run(gone())
    assert len(bundle.rows) < 1000
    bundle.close()


def test_outputs_that_are_not_rows_are_never_cut(shapes, caplog):
    """As of a sum over the batch, whose shape the signature does not know."""
    bundle = load(shapes)
    bundle.run, run = lambda name, inputs, outputs=(): [value[:1] for value in run(name, inputs, outputs)], bundle.run
    one = job("add", ["sum"], np.array([1, 2]), np.array([0, 0]))
    assert ask(bundle, [one, one]) == [[[1]], [[1]]]
    assert "are not joined any more" in caplog.text
    bundle.close()


def test_padding_after_a_request_without_rows(shapes):
    bundle = load(shapes, allowed_batch_sizes=(4, 8))
    nothing = job("add", ["sum"], np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert ask(bundle, [nothing, adding([2], [1])]) == [[[]], [[3]]]
    assert bundle.rows == [4]
    bundle.close()


def test_what_waits_when_the_server_stops_is_answered(bundle):
    async def stopped():
        runner = BatchDispatcher(Users(), threads=4, limit=100)
        version = LoadedVersion("m", 1, bundle.path, bundle=bundle)
        waiting = asyncio.create_task(runner.run(version, adding([1], [1])))
        await asyncio.sleep(0)
        await runner.close()
        with pytest.raises(StatusError, match="The server is stopping"):
            await waiting

    asyncio.run(stopped())


def test_queues_of_shapes_that_nobody_asks_with_any_more_are_forgotten(shapes, monkeypatch):
    bundle = load(shapes)
    monkeypatch.setattr(batch_dispatcher, "MOST_QUEUES", 3)

    async def asked():
        runner = BatchDispatcher(Users(), threads=4, limit=100)
        version = LoadedVersion("m", 1, bundle.path, bundle=bundle)
        for columns in range(1, 10):
            await runner.run(version, job("half", ["positive"], np.ones((1, columns), np.float16)))
            assert len(runner._queues) <= 3
        await runner.close()

    asyncio.run(asked())
    bundle.close()
