import pytest

from conveyor.errors import ExitCode
from pipeline.home.outcome import Outcome, Verdict


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.PUSHED, 0),
        (Verdict.UP_TO_DATE, 0),
        (Verdict.FAILED, 1),
        (Verdict.REJECTED, 3),
        (Verdict.NOTHING_NEW, 4),
        (Verdict.STOPPED, 130),
    ],
)
def test_a_verdict_is_an_exit_code_for_schedulers(verdict, code):
    assert verdict.exit_code == ExitCode(code)
    found = Outcome(verdict, "r1", accuracy=0.5, reasons=("why",)).to_dict()
    assert (found["verdict"], found["exit_code"]) == (str(verdict), code)
    assert (found["run"], found["accuracy"], found["reasons"]) == ("r1", 0.5, ("why",))


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(0, Verdict.PUSHED), (3, Verdict.REJECTED), (4, Verdict.NOTHING_NEW), (130, Verdict.STOPPED)]
    + [(code, Verdict.FAILED) for code in (1, 2, -9, 77)],
)
def test_an_exit_code_of_a_retraining_is_a_verdict(code, verdict):
    assert Verdict.of_exit_code(code) is verdict
