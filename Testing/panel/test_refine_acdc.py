"""The refine dialog on twelve real patients, half of them under a shift, with the shipped bundle. Takes minutes:

.venv/bin/python -m pytest Testing/panel/test_refine_acdc.py -m slow --pictures pictures
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from refine_walk import Walk

from RVQCLib.bundle import load_bundle, shipped_bundle
from RVQCLib.files import read_json, sha256
from RVQCLib.reviews import read_reviews

ACDC = Path(__file__).resolve().parents[3] / "shared" / "data" / "acdc" / "training"
pytestmark = pytest.mark.slow
SHIFTED = """
import sys
sys.path.insert(0, sys.argv[1])
import json, shutil
from pathlib import Path
import SimpleITK as sitk
from RVQCLib.shifts import seed_of, shift_stack
from RVQCLib.study import read_study
source, target = Path(sys.argv[2]), Path(sys.argv[3])
for number, name in enumerate(json.loads(sys.argv[4])):
    shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("*_gt*", "*_4d*"))
    if number % 2:
        for stack in read_study(target / name).stacks:
            shift = ("vendor", "ghosting", "noise")[number // 2 % 3]
            shifted = shift_stack(stack, shift, 5, seed=seed_of(0, name, stack))
            file = str(stack.source)
            image = sitk.GetImageFromArray(shifted.pixels)
            image.CopyInformation(sitk.ReadImage(file))
            sitk.WriteImage(image, file)
"""


@pytest.fixture
def patients(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Twelve patients that the shipped bundle never saw, every second one shifted; and six labelled ones."""
    if request.config.getoption("-m") != "slow":
        pytest.skip("takes minutes: pytest Testing/panel/test_refine_acdc.py -m slow")
    if not ACDC.is_dir():
        pytest.skip(f"the ACDC patients are not here ({ACDC})")
    parts = load_bundle(shipped_bundle()).description["views"]["SA"]["training"]["split"]
    (tmp_path / "new").mkdir()
    (tmp_path / "labelled").mkdir()
    engine = str(Path(__file__).resolve().parents[2] / "RVQCSegment")
    arguments = [engine, str(ACDC), str(tmp_path / "new"), json.dumps(parts["test"][:12])]
    subprocess.run([sys.executable, "-c", SHIFTED, *arguments], check=True)
    for name in (*parts["train"][:4], *parts["validation"][:2]):
        (tmp_path / "labelled" / name).symlink_to(ACDC / name)
    return tmp_path / "new", tmp_path / "labelled"


def test_twelve_patients_from_folder_to_adopted_bundle(panel: Any, patients: tuple[Path, Path]) -> None:
    import qt
    import slicer

    new, labelled = patients
    slicer.app.userSettings().remove("RVQC/Bundle")
    slicer.app.userSettings().remove("RVQC/Reviewer")
    walk = Walk(panel)
    walk.choose_folder(new)
    walk.picture("refine-1-folder")
    walk.set(bundle=None, labelled=labelled, epochs=1, steps=3, batch=8)
    walk.picture("refine-2-settings")
    walk.start()
    walk.wait_for("segment", 5)
    walk.picture("refine-3-run")
    panel.click(walk.dialog.run.cancel)
    walk.wait_until("cancelled")
    walk.picture("refine-3-cancelled")
    walk.dialog.window.close()
    walk.open()
    panel.click(walk.dialog.run.resume)
    walk.dialog.window.close()
    walk.wait_for("epoch")
    walk.open()
    walk.picture("refine-3-epochs")
    walk.wait_until("done")
    walk.picture("refine-3-done")

    result = read_json(walk.dialog.session.run.out / "refinement.json")
    assert len(result["studies"]) == 12 and result["failed"] == []
    panel.click(walk.dialog.next)
    page = walk.dialog.review
    assert len(page.table.rows) == 24
    walk.picture("refine-4-review")
    panel.shot(panel.window, "refine-4-views")
    panel.type(page.reviewer, "Ada")
    walk.select([0, 1, 2])
    walk.decide("accepted")
    panel.press(page.reviewer, qt.Qt.Key_Backspace, qt.Qt.ControlModifier)
    walk.settle()
    walk.picture("refine-4-decided")
    panel.click(page.adopt.ask)
    walk.picture("refine-4-adopt")
    panel.click(page.adopt.yes)
    walk.picture("refine-4-adopted")
    panel.click(page.plot)
    panel.shot(panel.window, "refine-4-scene")

    reviews = read_reviews(walk.work / "reviews.jsonl")
    assert [review.decision for review in reviews] == ["accepted"] * 3 + ["rejected"]
    files = sorted((walk.work / "accepted").iterdir())
    assert {sha256(file) for file in files} == {review.mask_sha256 for review in reviews[:3]} and len(files) == 3
    assert slicer.app.userSettings().value("RVQC/Bundle") == str(walk.dialog.session.run.out)
    assert walk.events()[-1]["event"] == "adopted"
    walk.module.cleanup()
