import asyncio

import numpy as np
import pytest

from serving.server.models.batch_dispatcher import BatchDispatcher
from serving.server.models.batching import BatchingParameters
from serving.server.models.bundle import SavedModelBundle
from serving.server.models.versions import Version
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

    def run(self, name, inputs, outputs=(), alone=False):
        self.rows.append(len(inputs[0]) if inputs[0].ndim else 0)
        return super().run(name, inputs, outputs, alone=alone)


@pytest.fixture
def bundle(shapes):
    made = Counting(shapes / "1", batching=BatchingParameters(max_batch_size=8, num_batch_threads=1))
    made.rows = []
    yield made
    made.close()


def job(signature, outputs, *inputs):
    return PreparedRequest(signature, inputs, outputs, list)


def ask(bundle, jobs, limit=100, most_bytes=2**20):
    """Runs jobs at once; returns their outputs or failures, and what the runner left."""
    users = Users()
    version = Version("m", 1, bundle.path, bundle=bundle)

    async def all_at_once():
        runner = BatchDispatcher(users, threads=4, limit=limit, most_bytes=most_bytes)
        answers = await asyncio.gather(*(runner.run(version, one) for one in jobs), return_exceptions=True)
        runner.close()
        assert (runner._busy, runner._held, runner._groups, runner._calls) == (0, 0, {}, {})
        return answers

    answers = asyncio.run(all_at_once())
    assert users.now == 0
    return [str(answer.code) if isinstance(answer, StatusError) else [v.tolist() for v in answer] for answer in answers]


def adding(a, b):
    return job("add", ["sum"], np.array(a), np.array(b))


def test_requests_at_once_are_handed_over_together_and_each_gets_its_own_rows(bundle):
    jobs = [adding([i, i + 1], [10, 20]) for i in range(6)]
    assert ask(bundle, jobs) == [[[i + 10, i + 21]] for i in range(6)]
    assert sorted(bundle.rows) == [4, 8], "twelve rows, in parts of at most a batch"


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
