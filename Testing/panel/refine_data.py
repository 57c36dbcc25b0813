"""Data for the dialog's tests, made by the engine in a process of its own, so that the application's stays without torch.

    python refine_data.py FOLDER

writes ``new/`` (four unlabelled studies and an empty folder), ``labelled/`` (six), ``parent/`` (a calibrated bundle of tiny
networks), ``saved`` with ``saved.refinement`` (a refinement that has ended), ``batch/``, and in ``la/`` the first three of
long-axis phantoms.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "RVQCSegment"), str(REPOSITORY / "RVQCRefine")]


def engine_fixtures() -> ModuleType:
    """The engine tests' conftest, under a name of its own."""
    path = REPOSITORY / "Testing" / "engine" / "conftest.py"
    spec = importlib.util.spec_from_file_location("engine_conftest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(home: Path) -> None:
    """Write everything into `home`."""
    from RVQCLib.calibration import calibrate_bundle
    from RVQCLib.cohort import segment_cohort

    made = engine_fixtures()
    for name, numbers in (("labelled", range(1, 7)), ("new", range(101, 105))):
        (home / name).mkdir(parents=True)
        for number in numbers:
            group = "NOR" if number % 2 else "DCM"
            study = made.schematic_study(f"patient{number:03d}", number, views=("SA",), group=group)
            made.write_acdc(study, home / name)
    (home / "new" / "empty").mkdir()
    made.write_tiny_bundle(home / "parent", views=("SA",))
    few = made.links(home / "labelled", home / "few", [1, 2])
    calibrate_bundle(home / "parent", few, part="all", device="cpu")
    make_long_axis(home / "la", made)
    save_run(home)
    segment_cohort(home / "new", home / "parent", home / "batch", device="cpu")


def make_long_axis(home: Path, made: ModuleType) -> None:
    """Phantoms of the long axis alone, and a calibrated bundle for it."""
    from RVQCLib.calibration import calibrate_bundle
    from RVQCLib.phantom import write_phantom

    grid = {"views": ("LA",), "spacing": (3.0, 3.0, 10.0), "size": (80, 80)}
    write_phantom(home / "labelled", 6, seed=1, diseases=("NOR",), **grid)
    write_phantom(home / "new", 3, seed=2, labelled=0, **grid)
    write_phantom(home / "few", 2, seed=3, diseases=("NOR",), **grid)
    made.write_tiny_bundle(home / "parent", views=("LA",))
    calibrate_bundle(home / "parent", home / "few", part="all", device="cpu")


def save_run(home: Path) -> None:
    """A refinement as the dialog leaves it, that learnt nothing."""
    from RVQCLib.jobs import JOBS, Opened
    from RVQCRefineLib.run_folder import Request, RunFolder

    def call(job: str, **arguments: Any) -> dict[str, Any]:
        return JOBS[job](Opened(), lambda event: run.log(event) if run else None, lambda: False, **arguments)

    run: RunFolder | None = None
    studies = call("scan", folder=str(home / "new"))["studies"]
    out, bundle, labelled = (str(home / name) for name in ("saved", "parent", "labelled"))
    request = Request(
        str(home / "new"), tuple(studies), out, bundle=bundle, labelled=labelled, device="cpu", config={"mode": "none"}
    )
    run = RunFolder.create(request)
    run.log({"event": "started"})
    call("refine", **request.arguments())
    run.log({"event": "done"})


if __name__ == "__main__":
    make(Path(sys.argv[1]))
