"""``python -m host``: a window with RVQC's modules on the stand-in for Slicer. See README.md here."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from .start import REPOSITORY, Host, start

MODULES = ("RVQCSegment/RVQCSegment.py", "RVQCRefine/RVQCRefine.py")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m host", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="volumes, segmentations or scenes to load")
    parser.add_argument(
        "--module", type=Path, action="append", help="the .py file of a scripted module, instead of RVQC's"
    )
    parser.add_argument("--picture", type=Path, help="save a picture of the window and leave (works without a screen)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if not (
        options.picture or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform != "linux"
    ):
        parser.error("there is no screen here; give --picture FILE.png to have the window painted into a file")
    paths = tuple(options.module or [REPOSITORY / name for name in MODULES if (REPOSITORY / name).is_file()])
    host = start(testing=bool(options.picture), modules=paths)
    import slicer

    for path in options.files:
        slicer.util.loadNodeFromFile(str(path))
    slicer.util.resetSliceViews()
    if paths:
        slicer.util.selectModule(paths[0].stem)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = paint(host, options.picture) if options.picture else host.app.exec()
    host.close()
    return code


def paint(host: Host, path: Path) -> int:
    """Save a picture of the window when it has settled; 0 if it was written."""
    for _ in range(20):
        host.app.processEvents()
    return 0 if host.window.grab().save(str(path)) else 1


if __name__ == "__main__":
    sys.exit(main())
