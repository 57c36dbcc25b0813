"""The walls of the house: who may import whom, and what may not be in the engine at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE = REPOSITORY / "RVQCSegment" / "RVQCLib"

ORDER = [
    *(
        "files",
        "locks",
        "stack",
        "names",
        "nifti",
        "dicom",
        "images",
        "subjects",
        "layouts",
        "study",
        "orientation",
        "slices",
        "networks",
        "metrics",
        "measures",
    ),
    *(
        "selection",
        "options",
        "anatomy",
        "overall",
        "quality",
        "prediction",
        "domain",
        "bundle",
        "inference",
        "phases",
        "features",
        "dataset",
        "shifts",
    ),
    *("mask_errors", "fence_tables", "parallel", "basal", "calibration"),
    *(
        "losses",
        "augmentation",
        "checkpoints",
        "fitting",
        "drawing",
        "charts",
        "function",
        "report",
        "edits",
        "result",
        "acceptance",
        "pipeline",
    ),
    *("reformat", "phantom_anatomy", "phantom_tissues", "phantom_scanner", "phantom_planes"),
    *("phantom_variety", "phantom", "samples"),
    *(
        "training_config",
        "runs",
        "training",
        "recipes",
        "labelled",
        "guards",
        "distributed",
        "styles",
        "ghosts",
        "shapes",
        "teachers",
        "newdomain",
        "successor",
        "learner",
        "material",
        "heap",
    ),
    *(
        "adaptation",
        "verdict",
        "refinement",
        "reviews",
        "manifest",
        "cohort_table",
        "thumbnail",
        "study_task",
        "processes",
    ),
    *("cluster", "cohort_page", "cohort_files", "cohort"),
    *("qc_statistics", "qc_evaluation", "failures", "evaluation", "ablation"),
    *("challenge", "challenge_tables", "mms2", "card", "info", "demo"),
    *("jobs", "worker", "commands", "cli"),
]
"""Rooms in the order in which data flows; a file imports only from those before it. Names of rooms to come hold a place."""

TORCH_ROOMS = {
    "networks",
    "losses",
    "augmentation",
    "checkpoints",
    "fitting",
    "training_config",
    "runs",
    "training",
    "distributed",
    "styles",
    "ghosts",
    "shapes",
    "learner",
    "material",
}
TORCH_ROOMS |= {"adaptation", "verdict", "refinement"}
PACKAGES = {"RVQCLib", "torch", "numpy", "SimpleITK", "safetensors", "jinja2", "markupsafe", "__future__"}
PACKAGES |= {"distributed"}  # the extra for clusters
MOST_LINES = 400
MOST_BYTES = 45_000_000


def rooms() -> list[str]:
    """Files as ``study``, and those of a package as ``commands/segment``."""
    paths = [path for path in ENGINE.rglob("*.py") if path.stem != "__init__"]
    return sorted(path.relative_to(ENGINE).with_suffix("").as_posix() for path in paths)


def place(room: str) -> str:
    """The name that stands for a room in ORDER: a package stands as a whole."""
    return room.split("/")[0]


def source(room: str) -> ast.Module:
    return ast.parse((ENGINE / f"{room}.py").read_text(encoding="utf-8"))


def executed_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that run when a file is imported: no function bodies, no type-checking blocks."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from executed_at_import(child)


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names of what the import statements among `nodes` name, ``from package import module`` included."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["RVQCLib" if node.level else "", node.module]))
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def rooms_used(tree: ast.Module) -> set[str]:
    return {name.split(".")[1] for name in imports(ast.walk(tree)) if name.startswith("RVQCLib.")} & set(ORDER)


def test_the_walls_see_every_way_to_import() -> None:
    tree = ast.parse(
        "import RVQCLib.files\nfrom RVQCLib import study as s\nfrom . import bundle\nfrom .cli import main\n"
        "from RVQCLib.quality import fences\ntry:\n    import torch\nexcept ImportError:\n    pass\n"
        "if TYPE_CHECKING:\n    import vtk\ndef late():\n    import slicer, RVQCLib.report\n"
    )
    assert rooms_used(tree) == {"files", "study", "bundle", "cli", "quality", "report"}
    assert {"torch", "vtk", "slicer"} <= roots(imports(ast.walk(tree)))
    assert roots(imports(executed_at_import(tree))) == {"RVQCLib", "torch"}


def test_every_room_has_its_place_in_the_order() -> None:
    assert len(ORDER) == len(set(ORDER))
    assert {place(room) for room in rooms()} <= set(ORDER), (
        "list a new file in ORDER at the place that its imports allow"
    )


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_downwards(room: str) -> None:
    own = {place(room)} if "/" in room else set()
    assert rooms_used(source(room)) <= set(ORDER[: ORDER.index(place(room))]) | own


def test_a_command_knows_no_other_command() -> None:
    for room in rooms():
        if place(room) == "commands":
            named = {name for name in imports(ast.walk(source(room))) if name.startswith("RVQCLib.commands.")}
            assert {name.split(".")[2] for name in named} <= {"common"}, room


@pytest.mark.parametrize("room", rooms())
def test_the_engine_knows_no_slicer_and_only_its_packages(room: str) -> None:
    assert roots(imports(ast.walk(source(room)))) <= PACKAGES | set(sys.stdlib_module_names)


@pytest.mark.parametrize("room", sorted(set(rooms()) - TORCH_ROOMS))
def test_torch_is_imported_late(room: str) -> None:
    assert not {"torch", "safetensors"} & roots(imports(executed_at_import(source(room))))


@pytest.mark.parametrize("room", rooms())
def test_no_print_no_environment_no_pickle(room: str) -> None:
    nodes = list(ast.walk(source(room)))
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    assert "print" not in called or room in ("cli", "commands/common")
    assert not {"torch.load", "torch.save"} & called
    named = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)} | imports(iter(nodes))
    assert not {"os.environ", "os.getenv"} & named
    assert not {"pickle", "shelve", "marshal"} & roots(named)


def test_opening_the_command_costs_no_torch() -> None:
    code = "import sys, RVQCLib.cli, RVQCLib.pipeline, RVQCLib.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, check=False).returncode == 0


PANEL = sorted([*REPOSITORY.glob("RVQC*/RVQC*.py"), *(ENGINE.parent / "RVQCSlicerLib").glob("*.py")])
LIGHT_ROOMS = {"files", "stack", "reviews", "function", "overall"}
"""What the panel may use of the engine when Slicer starts; everything else is imported on a click, or in the worker."""


@pytest.mark.parametrize("path", PANEL, ids=lambda path: path.stem)
def test_the_panel_starts_without_torch_and_without_the_workers_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    everywhere, at_start = imports(ast.walk(tree)), imports(executed_at_import(tree))
    assert not {"torch", "safetensors"} & roots(everywhere)
    assert not {"SimpleITK", "jinja2"} & roots(at_start)
    assert {name.split(".")[1] for name in at_start if name.startswith("RVQCLib.")} <= LIGHT_ROOMS
    assert not {"worker", "jobs", "pipeline", "inference", "networks"} & rooms_used(tree)


def test_what_panel_and_dialog_use_of_the_engine_needs_nothing_that_is_installed_on_a_click() -> None:
    """In Slicer's own process: torch, safetensors and jinja2 may be missing there, or be installed while it lives."""
    files = [path for path in REPOSITORY.glob("RVQC*/**/*.py") if ENGINE not in path.parents]
    used = {name for path in files for name in rooms_used(ast.parse(path.read_text(encoding="utf-8")))}
    assert {"cohort_table", "bundle", "samples"} <= used
    code = "import importlib, sys\nfor name in ('torch', 'safetensors', 'jinja2'): sys.modules[name] = None\n"
    code += f"for room in {sorted(used)}: importlib.import_module('RVQCLib.' + room)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ENGINE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(ENGINE.parent.rglob("*.py")), ids=lambda path: path.stem)
def test_a_file_is_a_room_not_a_hall(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_no_file_is_too_large_for_a_repository() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    assert files and [str(file) for file in files if file.is_file() and file.stat().st_size > MOST_BYTES] == []


@pytest.mark.parametrize("kind", [RuntimeWarning, DeprecationWarning, FutureWarning])
def test_what_python_numpy_or_torch_warn_our_rooms_of_is_an_error(kind: type[Warning]) -> None:
    """By pyproject's filters; other packages may warn each other."""
    warn = "import warnings\nwarnings.warn('soon gone', kind)"
    with pytest.raises(kind, match="soon gone"):
        exec(warn, {"kind": kind, "__name__": "RVQCLib.room"})
    with pytest.warns(kind, match="soon gone"):
        exec(warn, {"kind": kind, "__name__": "elsewhere"})
