import multiprocessing
import threading
from concurrent.futures import Future

import pytest

from serving.server.processes.link import Link, LinkClosed
from serving.server.protocol.errors import StatusError


def refuse():
    raise StatusError("NOT_FOUND", "not here")


def divide():
    return 1 / 0


@pytest.fixture
def ends():
    return multiprocessing.Pipe()


def test_both_ends_ask_at_once_and_a_slow_answer_keeps_no_other_back(ends):
    go_on, links = threading.Event(), {}
    links["left"] = Link(ends[0], {"slow": lambda: go_on.wait(10), "add": lambda a, b: a + b})
    links["right"] = Link(ends[1], {"back": lambda n: links["left"] and n * 2})
    slow = links["right"].submit("slow")
    assert links["right"].call("add", 1, 2) == 3
    assert links["left"].call("back", 4) == 8
    assert not slow.done()
    go_on.set()
    assert slow.result(10) is True
    links["left"].close()
    links["right"].close()


def test_an_answer_that_comes_later_holds_no_thread(ends):
    later = [Future() for _ in range(3)]
    left = Link(ends[0], {"later": lambda number: later[number]})
    right = Link(ends[1], {})
    asked = [right.submit("later", number) for number in range(3)]
    later[0].set_result("is not sent")
    later[1].set_exception(StatusError("ABORTED", "on purpose"))
    assert asked[0].result(10) is None
    with pytest.raises(StatusError, match="on purpose"):
        asked[1].result(10)
    assert not asked[2].done()
    right.close()
    left.close()


def test_failures_keep_their_code_and_others_become_one(ends):
    left = Link(ends[0], {"refuse": refuse, "divide": divide, "unpicklable": threading.Lock})
    right = Link(ends[1], {})
    with pytest.raises(StatusError, match="not here") as error:
        right.call("refuse")
    assert error.value.code == "NOT_FOUND"
    with pytest.raises(StatusError, match="ZeroDivisionError: division by zero") as error:
        right.call("divide")
    assert error.value.code == "UNKNOWN"
    with pytest.raises(StatusError, match="pickle"):
        right.call("unpicklable")
    with pytest.raises(StatusError, match="KeyError"):
        right.call("unknown")
    right.close()
    left.close()


def test_what_waits_when_the_other_end_closes_fails(ends):
    never, ended = threading.Event(), threading.Event()
    left = Link(ends[0], {"never": never.wait})
    right = Link(ends[1], {}, ended=ended.set)
    waiting = right.submit("never")
    left.close()
    with pytest.raises(LinkClosed):
        waiting.result(10)
    assert ended.wait(10)
    with pytest.raises(LinkClosed):
        right.call("never")
    never.set()
    right.close()
