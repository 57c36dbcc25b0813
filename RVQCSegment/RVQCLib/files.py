"""Errors that a user reads, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class RVQCError(ValueError):
    """A wrong input. Its one sentence names the file, what is wrong and what to do."""


class BundleError(RVQCError):
    """A bundle that cannot be trusted: damaged, incomplete, of an unknown schema, or foreign."""


class RunError(RVQCError):
    """What ends a whole run, as a device that does not work or a bundle that was changed: no fault of the study at hand."""


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
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _new_folder(path.parent, f".part-{path.name}-")
    try:
        yield part
        old = path.with_name(f".old-{part.name}")
        if path.exists():
            path.rename(old)
        try:
            part.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        if old.exists():
            log.warning("%s, what was in %s before, could not be removed; remove it.", old, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _new_folder(home: Path, prefix: str) -> Path:
    """A new folder whose name ends in eight random digits, with the rights that any new folder has there: by the umask, and of
    the group of a shared folder (tempfile's are for one user alone)."""
    while True:
        folder = home / f"{prefix}{secrets.token_hex(4)}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


def check_folder(path: str | os.PathLike) -> None:
    """Refuse, before the work, a place to which no folder of results can come.

    Raises
    ------
    RVQCError
        `path` is something else than a folder, or nothing can be written there.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise RVQCError(f"{path} is a file; name a folder for the results.")
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RVQCError(
            f"Nothing can be written to {there}; name another folder for the results, or change its rights."
        )


def check_empty(path: str | os.PathLike, what: str) -> None:
    """Refuse, before the work, a folder in which `what` (in words) would replace studies of their names.

    Raises
    ------
    RVQCError
        `path` is a folder that is not empty, or none that results can come to (`check_folder`).
    """
    path = Path(path)
    check_folder(path)
    if path.exists() and any(path.iterdir()):
        raise RVQCError(f"{path} is not empty, and {what} would replace studies of their names; name a new folder.")


def check_file(path: str | os.PathLike, suffix: str) -> None:
    """Refuse, before the work, to write a file in the place of one of another kind, or where none can come.

    Raises
    ------
    RVQCError
        `path` does not end in `suffix`, is a folder, or nothing can be written beside it.
    """
    path = Path(path)
    if path.suffix.lower() != suffix or path.is_dir():
        raise RVQCError(f"{path} is no file that ends in {suffix}, so it is not written; name one that does.")
    check_folder(path.parent)


def check_replaceable(path: str | os.PathLike) -> None:
    """Refuse, before the work, a folder that `whole_folder` cannot put another into the place of.

    Raises
    ------
    RVQCError
        `path` is where another disk is mounted, or the folder that it lies in cannot be written to.
    """
    path = Path(path).absolute()
    if path.exists() and (os.path.ismount(path) or not os.access(path.parent, os.W_OK | os.X_OK)):
        raise RVQCError(f"{path} cannot be replaced where it is; name a new folder in it, such as {path / 'results'}.")


def check_output(out: str | os.PathLike, names: Collection[str], what: str) -> None:
    """Refuse an output folder that `whole_folder` would replace with all that lies in it, unless it holds only `names`.

    Raises
    ------
    RVQCError
        `out` is a file, or a folder that holds something else; `what` says in words what may be replaced.
    """
    out = Path(out)
    check_folder(out)
    check_replaceable(out)
    other = sorted({path.name for path in out.iterdir()} - set(names)) if out.exists() else []
    if other:
        raise RVQCError(f"{out} holds other things than {what} ({other[0]}), so it is not replaced; name a new folder.")


def check_apart(out: str | os.PathLike, data: str | os.PathLike) -> None:
    """Refuse an output in the folder of the studies, where the next search for studies would come upon it.

    Raises
    ------
    RVQCError
        `out` is `data` or lies in it.
    """
    if Path(out).resolve().is_relative_to(Path(data).resolve()):
        raise RVQCError(
            f"{out} lies in the folder of the studies, so what it holds would be taken for studies; name another."
        )


def append_line(path: str | os.PathLike, line: str) -> int:
    """Add `line` and its end to a file that only grows; it is on the disk when this returns, and nobody's line is touched.

    Two writers take turns by a lock where the file system has one. A line that does not fit on the disk leaves nothing.
    A torn line that a crashed machine left behind is closed first, so that it costs no line but itself.

    Returns
    -------
    The byte at which the line begins.

    Raises
    ------
    OSError
        The file cannot be written; it is as before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = f"{line}\n".encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o664)
    try:
        with _alone(descriptor):
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end and (os.lseek(descriptor, end - 1, os.SEEK_SET), os.read(descriptor, 1))[1] != b"\n":
                content = b"\n" + content
            _write_whole(descriptor, content, end)
            return end + len(content) - len(content.lstrip(b"\n"))
    finally:
        os.close(descriptor)


def _write_whole(descriptor: int, content: bytes, end: int) -> None:
    try:
        written = os.write(descriptor, content)
        if written < len(content):
            raise OSError(f"only {written} of {len(content)} bytes of a line fit on the disk")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """Hold the file's lock; without locks (some network shares) O_APPEND alone keeps lines apart."""
    try:
        import fcntl
    except ImportError:  # Windows: a byte far behind the end stands for the file
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
        try:
            yield
        finally:
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield  # closing the descriptor gives the lock back


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


def same_settings(stored: Any, own: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether two configurations, as JSON values, are one; what either lacks has its default, in nested ones too.

    So what an older RVQC began goes on, although settings have come since, as long as they have their defaults.
    """
    return _completed(stored, defaults) == _completed(own, defaults)


def _completed(values: Any, defaults: Any) -> Any:
    if not isinstance(values, Mapping) or not isinstance(defaults, Mapping):
        return values
    return {**defaults, **{key: _completed(value, defaults.get(key)) for key, value in values.items()}}


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
