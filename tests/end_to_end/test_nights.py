"""What a night says, and leaves behind: declines, rollbacks, rejections, removals, interruptions."""

import json
import os
import re
import signal
from pathlib import Path

from tests.end_to_end.test_run import wait_for


def test_a_class_that_falls_is_told_of_and_turned_away_where_a_limit_is_set(pushed):
    code, out = pushed.retrain(
        "training.steps=20", "gate.tolerance=1", "gate.class_tolerance=0.01", "gate.min_accuracy=0"
    )
    assert code == 3, out
    assert re.search(
        r"class \d: test accuracy 0\.\d+ is below the 0\.\d+ of the stable version by more than the tol", out
    )
    assert re.search(r"by class +class \d fell from \d+\.\d\d % to \d+\.\d\d %; \d more fell by less", out)
    code, out = pushed.retrain("training.steps=20", "gate.tolerance=1", "gate.min_accuracy=0")
    assert code == 0, out
    report = pushed.reports()[-1]
    assert report["outcome"]["decline"].startswith("class ")
    assert f"Against the baseline, {report['outcome']['decline']}." in Path(report["outcome"]["report"]).read_text()


def test_after_a_rollback_retrain_says_what_serves(pushed):
    assert pushed.retrain("training.steps=35", "gate.tolerance=1")[0] == 0
    assert pushed("rollback", "digits")[0] == 0
    code, out = pushed("retrain", "digits", "--set", "training.steps=35", "--set", "gate.tolerance=1")
    assert code == 4, out
    assert "pushed as version 2; its figures follow" in out
    assert "stable         version 1; version 2 was taken back" in out
    assert "serve it" not in out
    code, out = pushed("retrain", "digits", "--set", "gate.min_accuracy=1", "--set", "training.steps=36")
    assert code == 3, out
    code, out = pushed("retrain", "digits", "--set", "gate.min_accuracy=1", "--set", "training.steps=36")
    assert code == 4, out
    assert re.search(r"because +test accuracy 0\.\d+ is below the floor of 1", out)


def test_retrain_removes_what_no_kept_version_needs(pushed):
    pushed("set", "digits", "serving.keep_versions=1", "gate.tolerance=1")
    for steps in (35, 40):
        code, out = pushed("retrain", "digits", "--set", f"training.steps={steps}", "--gc")
        assert code == 0, out
    assert re.search(r"removed +\d+\.\d MB that no kept version needs, among it version 1", out)
    assert pushed.versions() == ["2", "3"]
    assert list((pushed.home / "checkpoints" / "digits").iterdir()) == []
    assert "There is nothing to remove" in pushed("gc")[1]
    code, out = pushed("retrain", "digits", "--set", "training.steps=45", "--set", "serving.keep_versions=0", "--gc")
    assert code == 0, out
    assert "removed" not in out
    assert pushed.versions() == ["2", "3", "4"]


def test_ctrl_c_in_training_is_a_stop_and_no_failure(conveyor):
    settings = ("training.steps=4000", "training.log_every=4000", "training.checkpoint_every=4000")
    with conveyor.start(*conveyor.run_arguments(*settings)) as process:
        wait_for(process, "step 0,")
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "run again to continue from there" in rest
    (run,) = json.loads(conveyor("runs", "--json")[1])["runs"]
    assert (run["state"], run["component"], run["reason"]) == ("stopped", "Trainer", None)
