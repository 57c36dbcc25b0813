"""Studies for the pictures of the refine dialog: long-axis phantoms, of which some are spoilt.

    python picture_data.py FOLDER

writes ``new/`` (unlabelled, every second one spoilt), ``labelled/`` and ``long-axis/``, the shipped bundle's long-axis part. One slice a stack, so that the real networks of the
shipped bundle learn from them within minutes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "RVQCSegment"))
UNLABELLED, LABELLED = 6, 8
KIND: dict[str, Any] = {"views": ("LA",), "variety": 0.3, "diseases": ("NOR",)}


def make(home: Path) -> None:
    """Write everything into `home`."""
    import SimpleITK as sitk

    from RVQCLib.bundle import _write_description, shipped_bundle
    from RVQCLib.files import read_json
    from RVQCLib.images import read_image
    from RVQCLib.phantom import write_phantom
    from RVQCLib.shifts import shift_stack

    shutil.copytree(shipped_bundle() / "LA", home / "long-axis" / "LA")
    description = read_json(shipped_bundle() / "bundle.json")
    views = {"LA": description["views"]["LA"]}
    _write_description(home / "long-axis", {**description, "name": "long-axis", "views": views, "checksum": ""})
    write_phantom(home / "labelled", LABELLED, seed=911, **KIND)
    for number, folder in enumerate(write_phantom(home / "new", UNLABELLED, seed=912, labelled=0, **KIND)):
        for phase in ("ED", "ES") if number % 2 else ():
            path = folder / f"{folder.name}_LA_{phase}.nii.gz"
            stack = read_image(path, view="LA", phase=phase)
            spoilt = shift_stack(shift_stack(stack, "blur", 5, seed=number), "noise", 5, seed=number)
            image = sitk.GetImageFromArray(spoilt.pixels)
            image.CopyInformation(sitk.ReadImage(str(path)))
            sitk.WriteImage(image, str(path))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
