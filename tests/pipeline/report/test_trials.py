import dataclasses
import html
import re

from components.network_tuner.trials import Trial
from pipeline.experiments import load
from pipeline.experiments.config import Choice, Range, Tuning
from pipeline.home.folders import Home
from pipeline.report import trials


def test_the_page_says_what_was_tried(tmp_path):
    ranges = {
        "training.batch_size": Choice((25, 50)),
        "network.learning_rate": Range(1e-4, 1e-2, log=True),
        "training.seed": Range(1, 9, step=2),
    }
    experiment = dataclasses.replace(load("mnist"), tuning=Tuning(ranges))
    found = [Trial(0, dict.fromkeys(ranges, 1), 0.9, 2.0)]
    page = trials.write(Home(tmp_path), "mnist-1", experiment, found)
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page.read_text())).split())
    assert "Tried: training.batch_size 25, 50; network.learning_rate from 0.0001 to 0.01, by factors; " in text
    assert "training.seed from 1 to 9, in steps of 2. Each training is of 3,000 steps with 50 images a batch" in text
