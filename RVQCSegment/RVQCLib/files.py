"""Errors that a user reads, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class RVQCError(ValueError):
    """A wrong input. Its one sentence names the file, what is wrong and what to do."""


class BundleError(RVQCError):
    """A bundle that cannot be trusted: damaged, incomplete, of an unknown schema, or foreign."""


class Cancelled(Exception):
    """The user stopped the work; nothing was written."""


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it on success and removed on any error.

    The temporary name ends like `path` (``.nii.gz`` stays ``.nii.gz``), because writers choose the format by suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
        part = Path(folder) / path.name
        yield part
        os.replace(part, path)


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder beside `path` that replaces `path` on success and vanishes on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".part-{path.name}-", dir=path.parent))
    part.chmod(0o755)
    try:
        yield part
        old = path.with_name(f".old-{part.name}")
        if path.exists():
            path.rename(old)
        part.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON, whole. NaN and infinity are refused: no reader of ours may meet them."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    RVQCError
        The file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RVQCError(f"{path} cannot be read as JSON ({error}); restore the file or make it again.") from error


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
