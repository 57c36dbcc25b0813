"""What people made of a study's results: seen before anything is overwritten or removed, and never lost.

The rule: a result folder with a file that RVQC did not write as it is now is edited. Whatever would replace or remove
the folder moves it to ``edited/`` beside it first, and nothing in RVQC ever writes to or removes what lies there.
"""

from __future__ import annotations

import datetime
import gzip
import logging
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

from RVQCLib.files import RVQCError, read_json, sha256

EDITED = "edited"
RESERVED = (EDITED, "accepted", "cohort.csv", "cohort.html", "run.json", "reviews.jsonl")
"""What lies beside the studies' own folders: people's work, and what a batch writes; no study may be called so."""
OUTPUTS = "outputs"
"""Entry of quality.json: SHA-256 by name of every mask that was written with it."""
_OWN = ("quality.json", "report.html")
_STAMP = r"\d{8}T\d{6}Z(-\d+)?"

log = logging.getLogger(__name__)


def output_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every mask in a study's result folder. quality.json and the page may get the cohort's fences later."""
    return {path.name: sha256(path) for path in sorted(folder.glob("*.nii.gz"))}


def edited_files(folder: Path, outputs: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Names of what is in a result folder and was not written so by RVQC: changed masks, and files that somebody added.

    Parameters
    ----------
    outputs
        What to compare with where quality.json does not say what was written. Without either, every file counts.

    Hidden and empty files do not count: they hold nobody's work.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    if not folder.exists():
        return ()
    if not folder.is_dir():
        return (folder.name,)
    known = written_with(folder) or outputs or {}
    found = [path for path in sorted(folder.iterdir()) if path.name not in _OWN and not path.name.startswith(".")]
    return tuple(path.name for path in found if _changed(path, known.get(path.name)))


def _changed(path: Path, expected: str | None) -> bool:
    if not path.is_file():
        return True
    return path.stat().st_size > 0 and (expected is None or sha256(path) != expected)


def written_with(folder: Path) -> dict[str, str]:
    """The hashes that quality.json holds; none where it cannot be read or is older than they are."""
    try:
        found = read_json(folder / "quality.json").get(OUTPUTS, {})
    except (RVQCError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def is_whole(mask: Path) -> bool:
    """Whether a ``.nii.gz`` is there to its end. One that breaks off was damaged by a machine, not edited."""
    try:
        with gzip.open(mask) as stream:
            while stream.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def check_name(name: str) -> None:
    """Refuse a study whose folder would lie in the place of people's work, or of what a batch writes.

    Raises
    ------
    RVQCError
        The name is reserved.
    """
    if name.lower() in RESERVED:
        raise RVQCError(
            f"No study can be called {name}: beside the results that name is for people's work or the tables; rename it."
        )


def set_aside(folder: Path, outputs: Mapping[str, str] | None = None) -> Path | None:
    """Move a result folder that somebody edited to ``edited/<name>-<time>`` beside it; others stay.

    Returns
    -------
    Where it is now, None where nothing was edited.

    Raises
    ------
    OSError
        It cannot be moved; it is where it was.
    """
    changed = edited_files(folder, outputs)
    if not changed:
        return None
    target = _free_place(folder.parent, folder.name)
    folder.rename(target)
    log.warning("%s was edited by hand (%s); it is in %s now.", folder, ", ".join(changed), target)
    return target


def set_mask_aside(mask: Path, out: Path, *, written: str) -> Path | None:
    """Move one mask to ``OUT/edited/<name>-<time>.nii.gz``, unless it is still as RVQC wrote it: of the hash `written`.

    Returns and raises as `set_aside`.
    """
    if not mask.is_file() or not mask.stat().st_size or sha256(mask) == written:
        return None
    target = _free_place(out, mask.name.removesuffix(".nii.gz"), ".nii.gz")
    mask.rename(target)
    log.warning("%s was edited by hand; it is in %s now.", mask, target)
    return target


def _free_place(out: Path, name: str, suffix: str = "") -> Path:
    """A path in ``OUT/edited`` that names what lies there and when it came, where nothing is yet."""
    home, number = out / EDITED, 2
    home.mkdir(exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    target = home / f"{name}-{stamp}{suffix}"
    while target.exists():
        target, number = home / f"{name}-{stamp}-{number}{suffix}", number + 1
    return target


def asides(out: Path, study: str) -> list[str]:
    """The folders of a study's edited results that were moved aside, relative to `out`, oldest first."""
    home, name = out / EDITED, re.compile(rf"{re.escape(study)}-{_STAMP}")
    found = sorted(path.name for path in home.iterdir() if name.fullmatch(path.name)) if home.is_dir() else []
    return [f"{EDITED}/{name}" for name in found]
