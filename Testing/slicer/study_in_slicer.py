"""A study from the disk through the whole panel, by clicks, in the real application.

    Slicer --testing --python-script study_in_slicer.py [STUDY]

Exit code 77, with a sentence, where the study or torch is not there. `Testing/panel` goes the same way on the stand-in.
"""

from __future__ import annotations

import logging
import sys
import traceback
import unittest
from pathlib import Path

SKIPPED = 77


def go(study: Path | None) -> int:
    """Go the way of the self test; the exit code."""
    from RVQCSlicerLib.self_test import Walk, scratch_folder, study_through_the_panel

    if study is None or not study.exists():
        logging.warning(
            "Skipped: %s; name a study as RVQC_STUDY.", f"{study} is not there" if study else "there is no study"
        )
        return SKIPPED
    try:
        with scratch_folder() as folder:
            study_through_the_panel(Walk(folder), study)
    except unittest.SkipTest as why:
        logging.warning("Skipped: %s", why)
        return SKIPPED
    except Exception:
        logging.error("%s", traceback.format_exc())
        return 1
    return 0


if __name__ == "__main__":
    import slicer

    slicer.util.exit(go(Path(sys.argv[1]) if sys.argv[1:] else None))
