"""What the engine's tests share: where the real patients are, a schematic study, a tiny bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RVQCLib.bundle import SCHEMA, entries, write_bundle
from RVQCLib.cohort import segment_cohort
from RVQCLib.slices import Sampling
from RVQCLib.study import Geometry, Stack, Study, StudySource, read_mask

REPOSITORY = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--kills N``: how often the refinement of `test_refinement.py` is killed (kill -9) before it may end."""
    parser.addoption("--kills", type=int, default=3, help="kills of a running refinement in its test")


@pytest.fixture(scope="session")
def acdc() -> Path:
    """The ACDC training folder beside the checkout; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data" / "acdc" / "training"
    if not folder.is_dir():
        pytest.skip(f"the ACDC patients are not here ({folder})")
    return folder


def true_masks(sources: Iterable[StudySource]) -> Iterator[Stack]:
    """The true masks of ACDC's patients; their images are not read."""
    for source in sources:
        for (view, phase), (path, _) in source.label_files:
            yield read_mask(path, view=view, phase=phase, convention="acdc")


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """Trainings as on a machine with one core, so that all of a module compute alike and leave other tests' threads alone."""
    import torch

    from RVQCLib import training

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.os, "cpu_count", lambda: 1)
        yield
    torch.set_num_threads(before)


def heart_labels(rows: int, columns: int, center: tuple[float, float], scale: float = 1.0) -> np.ndarray:
    """One slice of a schematic heart, uint8 (rows, columns), pixels of about 4 mm: LV disc, ring of MYO, RV beside it."""
    r, c = np.mgrid[:rows, :columns]
    from_lv = np.hypot(r - center[0], c - center[1]) / scale
    from_rv = np.hypot((r - center[0]) / 1.3, c - center[1] + 9 * scale) / scale
    labels = np.zeros((rows, columns), np.uint8)
    labels[from_rv < 6] = 3
    labels[from_lv < 6.5] = 2
    labels[from_lv < 4.5] = 1
    return labels


def schematic_study(name: str, seed: int, *, views: tuple[str, ...] = ("SA", "LA"), group: str = "NOR") -> Study:
    """A labelled study of schematic hearts, 48 x 52 pixels of 4 mm: three slices in SA, one in LA, smaller at ES.

    The heart lies anywhere in the image; blood is bright, muscle dark, the rest noisy in between.
    """
    generator = np.random.default_rng(seed)
    center = (generator.uniform(18, 30), generator.uniform(22, 34))
    stacks, masks = [], []
    for view in views:
        for phase, size in (("ED", 1.0), ("ES", 0.8)):
            sizes = (0.7, 1.0, 0.85) if view == "SA" else (1.0,)
            labels = np.stack([heart_labels(48, 52, center, size * s) for s in sizes])
            clean = np.array([0.4, 0.9, 0.15, 0.8])[labels]
            pixels = (300 * (clean + generator.normal(0, 0.03, labels.shape))).astype(np.float32)
            geometry = Geometry(origin=(-90.0, -80.0, 12.0), spacing=(4.0, 4.0, 9.0))
            stacks.append(Stack(pixels, geometry, view, phase))
            masks.append(Stack(labels, geometry, view, phase))
    return Study(name, tuple(stacks), tuple(masks), group, "schematic")


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Study]:
    """`schematic_study(name, seed, views=("SA", "LA"), group="NOR")`, for tests that want several."""
    return schematic_study


@pytest.fixture(scope="session")
def tiny_study() -> Study:
    """One small labelled study with SA and LA at ED and ES."""
    return schematic_study("tiny", 7)


@pytest.fixture(scope="session")
def tiny_acdc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten small labelled SA studies in ACDC's layout and label convention, two groups of five."""
    folder = tmp_path_factory.mktemp("tiny_acdc")
    for number in range(1, 11):
        group = "NOR" if number % 2 else "DCM"
        write_acdc(schematic_study(f"patient{number:03d}", number, views=("SA",), group=group), folder)
    return folder


@pytest.fixture(scope="session")
def few_acdc(tiny_acdc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two studies of `tiny_acdc`: enough to calibrate on."""
    return links(tiny_acdc, tmp_path_factory.mktemp("few_acdc") / "studies", [1, 2])


def links(data: Path, folder: Path, numbers: Iterable[int]) -> Path:
    """A folder with some of the studies of `data`."""
    folder.mkdir()
    for number in numbers:
        (folder / f"patient{number:03d}").symlink_to(data / f"patient{number:03d}")
    return folder


def write_acdc(study: Study, folder: Path) -> None:
    """Write a labelled SA study as ACDC does (labels 1 RV, 2 MYO, 3 LV)."""
    home = folder / study.name
    home.mkdir()
    frames = {"ED": 1, "ES": 12}
    for stack, ending in [*((s, "") for s in study.stacks), *((s, "_gt") for s in study.labels)]:
        pixels = np.array([0, 3, 2, 1], np.uint8)[stack.pixels] if ending else stack.pixels
        image = sitk.GetImageFromArray(pixels)
        image.SetOrigin(stack.geometry.origin)
        image.SetSpacing(stack.geometry.spacing)
        sitk.WriteImage(image, str(home / f"{study.name}_frame{frames[stack.phase]:02d}{ending}.nii.gz"))
    (home / "Info.cfg").write_text(f"ED: 1\nES: 12\nGroup: {study.group}\nHeight: 170.0\nNbFrame: 30\nWeight: 70.0\n")


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """This process may open 128 files at once, where the system can be told so; what travels as a file soon needs more."""
    try:
        import resource
    except ImportError:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


NAMES = [f"patient{number:03d}" for number in range(1, 6)]
"""The studies of the fixture `studies`."""


def write_studies(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        write_acdc(schematic_study(f"patient{number:03d}", number, views=("SA",)), folder)
    return folder


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder of five small SA studies, ten stacks, that a test may damage."""
    return write_studies(tmp_path / "studies", 5)


@pytest.fixture
def batch(studies: Path, tiny_bundle: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a batch of `studies` to ``tmp_path/out`` on the processor; the events are in ``batch.events``."""

    def run(**more: Any) -> dict[str, Any]:
        run.events = []
        own = more.pop("progress", lambda event: None)

        def progress(event: dict[str, Any]) -> None:
            run.events.append(event)
            own(event)

        arguments = {"device": "cpu", "progress": progress, **more}
        return segment_cohort(studies, tiny_bundle, tmp_path / "out", **arguments)

    return run


def states(events: list[dict[str, Any]]) -> dict[str, str]:
    return {event["study"]: event["state"] for event in events if event["event"] == "study"}


TINY_SAMPLING = {"spacing_mm": 4.0, "size": 32, "locator_spacing_mm": 6.0, "locator_size": 32}


def tiny_description(views: tuple[str, ...] = ("SA", "LA")) -> dict[str, Any]:
    """The content of a tiny bundle's ``bundle.json``, before `write_bundle` fills in the checksums."""
    networks = {
        "segmenter1": ("BN1", {"width": 4, "stages": 3}),
        "segmenter2": ("BN2", {"width": 4, "stages": 3}),
        "segmenter3": ("BN1", {"width": 6, "stages": 3, "norm": "batch"}),
        "qc": ("AE", {"width": 4, "latent": 8}),
        "locator": ("BN1", {"width": 4, "stages": 3, "classes": 2}),
    }

    def part(view: str) -> dict[str, Any]:
        entries = {
            key: {
                "file": f"{view}/{key}.safetensors",
                "network": network,
                "parameters": parameters,
                "run": key,
                "epoch": 1,
                "validation_dice": {"heart": 0.5} if key == "locator" else {"LV": 0.5, "MYO": 0.5, "RV": 0.5},
            }
            for key, (network, parameters) in networks.items()
        }
        return {
            "sampling": {**Sampling().to_json(), **TINY_SAMPLING},
            "segmenters": [entries[f"segmenter{k}"] for k in (1, 2, 3)],
            "qc": {**entries["qc"], "ceiling": entries["qc"]["validation_dice"]},
            "locator": entries["locator"],
            "training": {"data": "none", "split": {"train": [], "validation": [], "test": []}},
            "calibration": None,
        }

    return {
        "schema": SCHEMA,
        "name": "tiny",
        "created": "2024-01-01",
        "license": "Apache-2.0",
        "intended_use": "Tests only: its weights are random.",
        "parent": None,
        "views": {view: part(view) for view in views},
    }


def write_tiny_bundle(
    path: Path,
    *,
    views: tuple[str, ...] = ("SA", "LA"),
    half: bool = True,
    split: dict[str, list[str]] | None = None,
) -> Path:
    """Write a bundle of tiny networks with random weights, the same at every call; it says that it was trained by `split`."""
    import torch

    from RVQCLib.networks import build

    description = tiny_description(views)
    for part in description["views"].values() if split else ():
        part["training"]["split"] = split
    with torch.random.fork_rng():
        torch.manual_seed(5)
        weights = {
            entry["file"]: build(entry["network"], entry["parameters"]).state_dict()
            for part in description["views"].values()
            for entry in entries(part)
        }
    write_bundle(path, description, weights, half=half)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for SA and LA whose tiny networks have random weights, without calibration. Shared: do not change it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def calibrated_bundle(few_acdc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a bundle for SA, calibrated on `few_acdc` by one thread. Shared: do not change it."""
    from torch import get_num_threads, set_num_threads

    from RVQCLib.calibration import calibrate_bundle

    path, threads = (
        write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "calibrated", views=("SA",)),
        get_num_threads(),
    )
    set_num_threads(1)
    calibrate_bundle(path, few_acdc, part="all", device="cpu")
    set_num_threads(threads)
    return path


@pytest.fixture
def own_bundle(tmp_path: Path) -> Path:
    """A copy of `tiny_bundle`, SA only, that a test may damage."""
    return write_tiny_bundle(tmp_path / "own", views=("SA",))
