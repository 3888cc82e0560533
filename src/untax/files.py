"""Writes a file whole or not at all: the one place where a temporary name becomes the real one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["write", "write_json"]


def write(path: Path, content: str | bytes) -> None:
    """Write under a temporary name, then rename: a reader sees the old file or the new one, never half of it.

    Two processes may write the same file at once; the folder is made. Raises: OSError when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        # a full disk names no file, and a temporary name tells nobody anything
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """The same for a value that JSON can hold, readable by people."""
    write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
