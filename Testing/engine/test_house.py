"""The walls of the house: who may import whom, and what may not be in the engine at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "RVQCSegment" / "RVQCLib"

ORDER = (
    "files stack nifti dicom images layouts study slices networks metrics measures selection anatomy quality prediction "
    "bundle inference dataset shifts calibration losses augmentation fitting training drawing charts report result pipeline "
    "phantom_anatomy phantom_tissues phantom_scanner phantom_planes phantom evaluation qc_evaluation info demo cli"
).split()
"""Rooms in the order in which data flows; a file imports only from those before it."""

TORCH_ROOMS = {"networks", "losses", "augmentation", "fitting", "training"}


def rooms() -> list[str]:
    return sorted(path.stem for path in ENGINE.glob("*.py") if path.stem != "__init__")


def imports(room: str, *, top_level: bool) -> set[str]:
    """Names of the modules that a room imports, at file scope only or anywhere; type-checking blocks do not count."""
    tree = ast.parse((ENGINE / f"{room}.py").read_text(encoding="utf-8"))
    body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    nodes = body if top_level else [inner for node in body for inner in ast.walk(node)]
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_every_room_is_in_the_order() -> None:
    assert set(rooms()) == set(ORDER), "list a new file in ORDER at the place that its imports allow"


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_downwards(room: str) -> None:
    above = ORDER[ORDER.index(room) :]
    used = {name.removeprefix("RVQCLib.") for name in imports(room, top_level=False) if name.startswith("RVQCLib.")}
    assert not used & set(above)


@pytest.mark.parametrize("room", rooms())
def test_the_engine_knows_no_slicer_and_only_its_packages(room: str) -> None:
    roots = {name.split(".")[0] for name in imports(room, top_level=False)}
    known = {"RVQCLib", "torch", "numpy", "SimpleITK", "safetensors", "jinja2", "__future__", "markupsafe"}
    assert roots <= known | set(sys.stdlib_module_names)


@pytest.mark.parametrize("room", sorted(set(rooms()) - TORCH_ROOMS))
def test_torch_is_imported_late(room: str) -> None:
    roots = {name.split(".")[0] for name in imports(room, top_level=True)}
    assert "torch" not in roots and "safetensors" not in roots


@pytest.mark.parametrize("room", rooms())
def test_no_print_no_environment_no_pickle(room: str) -> None:
    text = (ENGINE / f"{room}.py").read_text(encoding="utf-8")
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)}
    assert "print" not in calls or room == "cli"
    assert not {"os.getenv", "os.environ.get", "torch.load", "torch.save"} & calls
    assert "pickle" not in {name.split(".")[0] for name in imports(room, top_level=False)}


def test_opening_the_command_costs_no_torch() -> None:
    code = "import sys, RVQCLib.cli, RVQCLib.pipeline, RVQCLib.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, check=False).returncode == 0


@pytest.mark.parametrize("room", rooms())
def test_a_file_is_a_room_not_a_hall(room: str) -> None:
    assert len((ENGINE / f"{room}.py").read_text(encoding="utf-8").splitlines()) <= 420
