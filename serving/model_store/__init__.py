"""The folder of a model: its versions, their labels and records, written so that a crash loses nothing."""

from serving.model_store.labels import Labels
from serving.model_store.records import ModelDataset, VersionRecord, read_dataset
from serving.model_store.store import LabelsDamaged, ModelStore, ModelWithdrawn, Pushed, StableMove, StoredModel

__all__ = [
    "Labels",
    "LabelsDamaged",
    "ModelDataset",
    "ModelStore",
    "ModelWithdrawn",
    "Pushed",
    "StableMove",
    "StoredModel",
    "VersionRecord",
    "read_dataset",
]
