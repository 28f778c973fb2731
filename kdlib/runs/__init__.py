"""Runs: one trained network each, from settings (`settings`) through training (`training`) to a record in the store (`store`)
and a row of a table (`table`).

The parts load on first use, so that the settings can be read without torch."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdlib.runs.networks import class_means, load_model, on_device
    from kdlib.runs.settings import Run, as_run, load_data
    from kdlib.runs.store import history, predictions, stored, stored_predictions, stored_record
    from kdlib.runs.training import run

PARTS = {
    "settings": ("Run", "as_run", "load_data"),
    "store": ("history", "predictions", "stored", "stored_predictions", "stored_record"),
    "networks": ("class_means", "load_model", "on_device"),
    "training": ("run",),
}
__all__ = ["Run", "as_run", "class_means", "history", "load_data", "load_model", "on_device", "predictions", "run", "stored",
           "stored_predictions", "stored_record"]  # fmt: skip


def __getattr__(name):
    for part, provided in PARTS.items():
        if name in provided:
            return getattr(importlib.import_module(f"kdlib.runs.{part}"), name)
    raise AttributeError(f"module 'kdlib.runs' has no attribute {name!r}; it has {', '.join(__all__)}")
