"""One run at a time in a folder: a lock that says who holds it, and that a killed run does not leave behind.

The lock is a file that is locked by the operating system and touched every few seconds. The system's lock is gone with
its process, however that ends. Where a file system has none, or keeps it to one machine (some network shares), the touch
tells: a file that nobody has touched for `STALE_S` is nobody's. The file stays; only its content goes.
"""

from __future__ import annotations

import datetime
import errno
import getpass
import json
import math
import os
import platform
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from RVQCLib.files import RVQCError

LOCK = "run.lock"
"""The lock file of a folder that only one run at a time works in."""
BEAT_S = 15.0
STALE_S = 60.0
"""After so long without a touch the holder is gone; four beats, so that a slow share does not look like a death."""
_FAR = 1 << 30
"""Where Windows locks a byte: far behind the content, which others can then read."""


@contextmanager
def sole_run(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; `what` says in words what is worked on.

    Raises
    ------
    RVQCError
        Somebody holds it: who, since when, and what to do.
    OSError
        The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o664)
    try:
        _take(descriptor, path, what)
        ended = threading.Event()
        beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            with suppress(OSError):  # the folder may be gone
                os.ftruncate(descriptor, 0)
            _unlock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def sole_part(folder: Path, part: tuple[int, int], what: str) -> Iterator[None]:
    """As `sole_run` for part (i, n) of a work: every n-th thing from the i-th. Parts that share things exclude each other.

    The lock files are ``part-i-of-n.lock`` in `folder`.
    """
    i, n = part
    with sole_run(folder / f"part-{i}-of-{n}.lock", what):
        for other in folder.glob("part-*.lock"):
            found = re.fullmatch(r"part-(\d+)-of-(\d+)\.lock", other.name)
            k, m = (int(found[1]), int(found[2])) if found else part
            if (k, m) != part and (k - i) % math.gcd(m, n) == 0:
                check_free(other, what)
        yield


def check_free(path: Path, what: str) -> None:
    """Raise the RVQCError of `sole_run` where somebody holds the lock file `path`; nothing is changed.

    Many may look at once, such as the parts of an array job that start together: nobody is taken for the holder by looking.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    except OSError:
        return  # there is none, or what cannot be written is not being worked on from here
    try:
        _seize(descriptor, path, what, shared=True)
        _unlock(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, what: str) -> None:
    _seize(descriptor, path, what)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    holder = {"host": platform.node(), "pid": os.getpid(), "user": _user(), "since": now}
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    with suppress(OSError):  # on a full disk the lock holds without a name
        os.write(descriptor, json.dumps(holder).encode())


def _seize(descriptor: int, path: Path, what: str, *, shared: bool = False) -> None:
    """Lock the file, or say who has it."""
    holder = _holder(descriptor)
    locked = _lock(descriptor, shared)
    if locked is None or (locked and holder and holder["host"] != platform.node()):
        # The system knows nothing of other machines' locks here: their touch has to tell.
        locked = holder is None or _untouched_s(descriptor, path) > STALE_S
    if not locked:
        raise RVQCError(_sentence(what, holder))


def _sentence(what: str, holder: dict[str, Any] | None) -> str:
    by = f"{holder['user']} on {holder['host']} (process {holder['pid']})" if holder else "another process"
    since = f" since {holder['since'][:16].replace('T', ' ')} UTC" if holder else ""
    return (
        f"{what} is being worked on by {by}{since}; wait until that has ended, or stop it. If it was killed, try again in "
        "a minute."
    )


def _holder(descriptor: int) -> dict[str, Any] | None:
    """Who wrote themselves into the file; None for nobody, or half a line."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(descriptor, 4096))
        return {key: found[key] for key in ("host", "pid", "user", "since")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lock(descriptor: int, shared: bool = False) -> bool | None:
    """Whether the system gave us the lock, alone or with others who want it `shared`; None where the file system has no locks."""
    try:
        try:
            import fcntl
        except ImportError:  # Windows, which has no shared locks
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        taken = error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
        return False if taken else None
    return True


def _unlock(descriptor: int) -> None:
    """Give the lock back; on POSIX closing the file does it."""
    with suppress(ImportError, OSError):
        import msvcrt

        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)


def _untouched_s(descriptor: int, path: Path) -> float:
    """How long ago the file was touched, by the clock of its file system."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        now.write(b"now")
        now.flush()
        return os.fstat(now.fileno()).st_mtime - os.fstat(descriptor).st_mtime


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(OSError):
            os.utime(path)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"
