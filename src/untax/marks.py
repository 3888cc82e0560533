"""What says that two things are the same: a hash of their content, the versions of what made them. No torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any

__all__ = ["digest", "versions"]


def digest(value: Any) -> str:
    """A short hash of anything that JSON can hold, the same in every process; other values count by their text."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """The installed versions of the named libraries; those that are not installed are left out."""
    found = {}
    for library in libraries:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
