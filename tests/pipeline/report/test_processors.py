import threading
import time
from pathlib import Path
from unittest import mock

import pytest

from pipeline.report.processors import Processors


def test_a_process_that_computes_keeps_a_processor_busy():
    begin = time.time()
    with Processors() as processors:
        while time.time() < begin + 1:
            pass
    busy = processors.busy(begin, 1.0, 2)
    assert all(0.6 < share <= processors.count for share in busy), busy  # whoever else is there


def test_where_nobody_may_look_nothing_is_said():
    assert Processors().busy(100, 4, 3) == []


@pytest.mark.parametrize("text", ["", "cpu0 1 2\n", "cpu0 a b c d e\n", "cpu9999 1 2 3 4 5\n"])
def test_what_cannot_be_read_ends_no_run(monkeypatch, text):
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    processors = Processors()
    processors._names = {"cpu0"}
    with processors:
        pass
    assert processors.busy(time.time(), 1, 3) == []


def test_a_thread_that_cannot_be_started_ends_no_run(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("can't start new thread")))
    with Processors() as processors:
        pass
    assert len(processors.busy(time.time(), 1, 3)) == 3  # of the looks at the beginning and at the end


def test_of_a_long_time_every_other_look_is_forgotten(monkeypatch):
    monkeypatch.setattr("pipeline.report.processors.MOST", 4)
    monkeypatch.setattr("pipeline.report.processors.EVERY", 0.001)
    with Processors() as processors:
        while processors._every < 0.01:
            time.sleep(0.001)
    assert len(processors._looks) <= 6


def test_what_was_seen_is_laid_out_over_equal_parts_of_a_time():
    processors = Processors()
    processors.count = 2
    processors._looks = [(100.0, 7.0), (101.0, 9.0), (103.0, 9.0), (104.0, 9.5)]
    assert processors.busy(100, 4, 4) == pytest.approx([2, 0, 0, 0.5])
    assert processors.busy(100, 4, 2) == pytest.approx([1, 0.25])
    assert processors.busy(98, 4, 2) == pytest.approx([0, 1])  # nobody looked before
    assert processors.busy(100, 0, 3) == pytest.approx([2, 2, 2])  # a run that failed at once
