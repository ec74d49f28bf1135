import time

import pytest

from pipeline.report.processors import Processors


def test_a_process_that_computes_keeps_a_processor_busy():
    begin = time.time()
    with Processors() as processors:
        while time.time() < begin + 1:
            pass
    busy = processors.busy(begin, 1.0, 2)
    assert all(0.6 < share <= processors.count for share in busy), busy  # whoever else is there


def test_where_nobody_may_look_nothing_was_busy():
    assert Processors().busy(100, 4, 3) == [0, 0, 0]


def test_what_was_seen_is_laid_out_over_equal_parts_of_a_time():
    processors = Processors()
    processors.count = 2
    processors._looks = [(100.0, 7.0), (101.0, 9.0), (103.0, 9.0), (104.0, 9.5)]
    assert processors.busy(100, 4, 4) == pytest.approx([2, 0, 0, 0.5])
    assert processors.busy(100, 4, 2) == pytest.approx([1, 0.25])
    assert processors.busy(98, 4, 2) == pytest.approx([0, 1])  # nobody looked before
    assert processors.busy(100, 0, 3) == pytest.approx([2, 2, 2])  # a run that failed at once
