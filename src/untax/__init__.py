"""Align language models with methods that pay less alignment tax, measure both sides, hand over the receipt."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> where it lives; none of them is the name of a module, which an import would put in its place
_PUBLIC = {
    "load_model": ("untax.models", "load"),
    "load_records": ("untax.data.load", "load"),
    "augment_records": ("untax.data.augment.run", "augment"),
    "train_model": ("untax.train.loop", "train"),
    "load_suite": ("untax.measure", "load_suite"),
    "measure_model": ("untax.measure", "measure"),
    "make_receipt": ("untax.receipt", "make"),
    "write_report": ("untax.report.page", "write"),
    "load_recipe": ("untax.recipe", "load"),
    "run_recipe": ("untax.run", "run"),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    # imported on first use: `untax --help` must not pay for torch
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return importlib.import_module(module).__dict__[attribute]
    raise AttributeError(f"module 'untax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
