"""Takes labelled images to a gated, pushed, servable network: what users of Conveyor write in Python.

    from conveyor import Client, Dataset, Experiment, load_experiment

A name is imported when it is first asked for, so that the client needs neither TensorFlow nor TFX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conveyor.errors import ConfigError, ConveyorError
    from pipeline.experiments import load as load_experiment
    from pipeline.experiments.config import (
        Choice,
        Dataset,
        DriftLimits,
        Experiment,
        Gate,
        HashedSplits,
        NamedSplits,
        Network,
        Range,
        Serving,
        Spans,
        Training,
        Tuning,
    )
    from serving.client import Client, Prediction, ServingError, Tls

_CONFIG = "pipeline.experiments.config"
_CLIENT = "serving.client"
_HOMES = {
    "Choice": (_CONFIG, "Choice"),
    "Client": (_CLIENT, "Client"),
    "ConfigError": ("conveyor.errors", "ConfigError"),
    "ConveyorError": ("conveyor.errors", "ConveyorError"),
    "Dataset": (_CONFIG, "Dataset"),
    "DriftLimits": (_CONFIG, "DriftLimits"),
    "Experiment": (_CONFIG, "Experiment"),
    "Gate": (_CONFIG, "Gate"),
    "HashedSplits": (_CONFIG, "HashedSplits"),
    "NamedSplits": (_CONFIG, "NamedSplits"),
    "Network": (_CONFIG, "Network"),
    "Prediction": (_CLIENT, "Prediction"),
    "Range": (_CONFIG, "Range"),
    "Serving": (_CONFIG, "Serving"),
    "ServingError": (_CLIENT, "ServingError"),
    "Spans": (_CONFIG, "Spans"),
    "Tls": (_CLIENT, "Tls"),
    "Training": (_CONFIG, "Training"),
    "Tuning": (_CONFIG, "Tuning"),
    "load_experiment": ("pipeline.experiments", "load"),
}

__all__ = [
    "Choice", "Client", "ConfigError", "ConveyorError", "Dataset", "DriftLimits", "Experiment", "Gate", "HashedSplits",
    "NamedSplits", "Network", "Prediction", "Range", "Serving", "ServingError", "Spans", "Tls", "Training", "Tuning",
    "load_experiment",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'conveyor' has no attribute {name!r}")
    module, original = _HOMES[name]
    return getattr(importlib.import_module(module), original)


def __dir__() -> list[str]:
    return __all__
