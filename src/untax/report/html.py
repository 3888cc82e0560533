"""What every page needs: where the templates lie, the hash that lets one style or script run, and text that HTML can hold."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

__all__ = ["TEMPLATES", "clean", "csp_hash"]

TEMPLATES = Path(__file__).parent / "templates"


def csp_hash(text: str) -> str:
    """The SHA-256 by which a Content-Security-Policy knows an inline style or script, in base64."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def clean(text: str) -> str:
    """Without what HTML cannot hold: control characters and halves of surrogate pairs become U+FFFD."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
