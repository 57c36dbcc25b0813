"""What the worker process can be asked for: functions of JSON arguments that return a JSON result.

An opened bundle stays in `Opened` from job to job, so that the next study starts without loading anything.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from RVQCLib.files import RVQCError

if TYPE_CHECKING:
    from RVQCLib.bundle import Bundle
    from RVQCLib.study import StudySource

PACKAGES = ("torch", "safetensors", "jinja2", "SimpleITK", "numpy")
"""What the jobs need, by the name that is imported."""

Progress = Callable[[dict[str, Any]], None]
Asked = Callable[[], bool]


@dataclass
class Opened:
    """The bundle that was used last, kept with its networks as long as its description does not change."""

    _last: dict[tuple[Path, tuple[str, ...], str], Bundle] = field(default_factory=dict)

    def bundle(self, path: str | None, allow: tuple[str, ...] = ()) -> Bundle:
        """The bundle at `path`, without one the shipped one. Raises BundleError where it cannot be trusted."""
        from RVQCLib.bundle import load_bundle, shipped_bundle
        from RVQCLib.files import sha256

        folder = Path(path) if path else shipped_bundle()
        description = folder / "bundle.json"
        key = (folder, allow, sha256(description) if description.is_file() else "")
        if key not in self._last:
            opened = load_bundle(folder, allow=allow)
            self._last.clear()
            self._last[key] = opened
        return self._last[key]


def segment(
    opened: Opened,
    progress: Progress,
    cancelled: Asked,
    *,
    out: str,
    study: str | None = None,
    name: str | None = None,
    images: Mapping[str, str] | None = None,
    cine: Mapping[str, Mapping[str, Any]] | None = None,
    origins: Mapping[str, str] | None = None,
    bundle: str | None = None,
    allow: tuple[str, ...] = (),
    device: str = "auto",
    candidates: bool = True,
    report: bool = True,
) -> dict[str, Any]:
    """Segment one study and write it to ``OUT/<study>/``.

    Parameters
    ----------
    study
        Path of a study of any layout; or instead of it
    name, images, cine
        the study's name, files by stack (``{"SA_ED": path}``), and per view a cine ``{"file", "ed", "es"}`` with frames
        from 0, which without `ed` and `es` are found. Results of other images under that name are not replaced.
    origins
        files that `images` (by stack) and `cine` (by view) are copies of; see `result.with_origins`.

    Returns
    -------
    ``{"folder": where it was written, "quality": the content of quality.json}``.

    Raises
    ------
    RVQCError
        A wrong input.
    Cancelled
        `cancelled` returned True; nothing was written.
    """
    from RVQCLib.files import Cancelled, read_json
    from RVQCLib.pipeline import segment_study
    from RVQCLib.result import refuse_other_images, with_origins, write_result
    from RVQCLib.study import source_of

    source = source_of(study) if study else _source(name, images or {}, cine or {})
    progress({"event": "load", "study": source.name})
    loaded = source.load()
    if name:
        refuse_other_images(loaded, out, origins or {})
    if cancelled():
        raise Cancelled
    progress({"event": "networks", "study": loaded.name})
    networks = opened.bundle(bundle, tuple(allow))
    result = segment_study(loaded, networks, device=device, progress=progress, cancelled=cancelled)
    result = with_origins(result, origins or {})
    progress({"event": "write", "study": loaded.name})
    folder = write_result(result, out, candidates=candidates, report=report)
    return {"folder": str(folder), "quality": read_json(folder / "quality.json")}


def _source(name: str | None, images: Mapping[str, str], cine: Mapping[str, Mapping[str, Any]]) -> StudySource:
    from RVQCLib.layouts import StudySource
    from RVQCLib.stack import PHASES, VIEWS

    files: dict[tuple[str, str], Any] = {}
    for key, path in images.items():
        view, _, phase = key.partition("_")
        if view not in VIEWS or phase not in PHASES:
            raise RVQCError(f"{key} is no stack; name the images SA_ED, SA_ES, LA_ED, LA_ES.")
        files[view, phase] = Path(path)
    for view, entry in cine.items():
        if view not in VIEWS or "file" not in entry:
            raise RVQCError(f'The cine {view} is not described by a view and {{"file": …}}; give both.')
        frames = [entry.get("ed"), entry.get("es")]
        if frames == [None, None]:
            files[view, ""] = Path(entry["file"])
        elif None in frames:
            raise RVQCError(f"The {view} cine has only one of ED and ES; give both frames, or none to have them found.")
        else:
            files.update({(view, p): (Path(entry["file"]), f) for p, f in zip(PHASES, frames, strict=True)})
    if not name or not files:
        raise RVQCError("A study needs a name and at least one image; choose a volume for SA or LA.")
    return StudySource(name, files)


def scan(opened: Opened, progress: Progress, cancelled: Asked, *, folder: str) -> dict[str, Any]:
    """The studies in a folder; nothing but headers is read.

    Returns
    -------
    ``{"folder", "studies": [{"study", "layout", "images": [{"view", "phase", "file", "frame"}], "problems": [sentence]}]}``;
    the phase of a cine whose ED and ES are still to be found is "", the frame of a file of its own is None.

    Raises
    ------
    RVQCError
        The folder cannot be read, or holds no study.
    """
    from RVQCLib.study import find_studies

    return {"folder": folder, "studies": [_found(source) for source in find_studies(folder)]}


def _found(source: StudySource) -> dict[str, Any]:
    images = [
        {"view": v, "phase": p, "file": str(file), "frame": frame} for (v, p), (file, frame) in source.image_files
    ]
    return {"study": source.name, "layout": source.layout, "images": images, "problems": list(source.problems)}


def batch(
    opened: Opened,
    progress: Progress,
    cancelled: Asked,
    *,
    folder: str,
    out: str,
    bundle: str | None = None,
    options: Mapping[str, Any] | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """Segment a folder of studies: the arguments of `cohort.segment_cohort` by name, paths as text, `options` as JSON."""
    from RVQCLib.bundle import shipped_bundle
    from RVQCLib.cohort import segment_cohort
    from RVQCLib.quality import QCOptions

    rest["options"] = QCOptions.from_json(options or {})
    path = Path(bundle) if bundle else shipped_bundle()
    return segment_cohort(Path(folder), path, Path(out), progress=progress, cancelled=cancelled, **rest)


def refine(
    opened: Opened,
    progress: Progress,
    cancelled: Asked,
    *,
    unlabelled: str,
    out: str,
    bundle: str | None = None,
    config: Mapping[str, Any] | None = None,
    labelled: str | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """Refine a bundle: the arguments of `refinement.refine_bundle` by name, paths as text, `config` as JSON."""
    from RVQCLib.bundle import shipped_bundle
    from RVQCLib.refinement import RefinementConfig, refine_bundle

    path = Path(bundle) if bundle else shipped_bundle()
    settings = RefinementConfig.from_json(dict(config)) if config else RefinementConfig()
    truth = Path(labelled) if labelled else None
    return refine_bundle(
        Path(unlabelled), path, Path(out), settings, labelled=truth, report=progress, cancelled=cancelled, **rest
    )


def check(
    opened: Opened, progress: Progress, cancelled: Asked, *, bundle: str | None = None, device: str = "auto"
) -> dict[str, Any]:
    """What is here to compute with; never raises for what is missing.

    Returns
    -------
    ``{"packages": {name: version or None}, "missing": [name], "device": {"name", "description", "memory_gb"} or None,
    "bundle": {"name", "hash", "views", "license", "path"} or None, "problems": [sentence]}``.
    """
    packages = {package: _version(package) for package in PACKAGES}
    missing = [package for package, version in packages.items() if version is None]
    problems: list[str] = []
    if missing:
        problems.append(f"{', '.join(missing)} cannot be found in this Python; install what is missing.")
    return {
        "packages": packages,
        "missing": missing,
        "device": None if missing else _device(device, problems),
        "bundle": None if "numpy" in missing or "SimpleITK" in missing else _bundle(opened, bundle, problems),
        "problems": problems,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(wanted: str, problems: list[str]) -> dict[str, Any] | None:
    try:
        import torch

        from RVQCLib.inference import choose_device

        name = choose_device(wanted)
    except RVQCError as error:
        problems.append(str(error))
        return None
    except (ImportError, OSError) as error:
        problems.append(f"torch is installed but cannot be loaded ({str(error).splitlines()[0]}); install it again.")
        return None
    if name == "cuda":
        return {
            "name": name,
            "description": torch.cuda.get_device_name(),
            "memory_gb": _gb(torch.cuda.mem_get_info()[1]),
        }
    cores = f"{os.cpu_count()} processor cores"
    return {"name": name, "description": "Apple GPU" if name == "mps" else cores, "memory_gb": _main_memory_gb()}


def _main_memory_gb() -> float | None:
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return _gb(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _gb(amount: int) -> float:
    return round(amount / 2**30, 1)


def _bundle(opened: Opened, path: str | None, problems: list[str]) -> dict[str, Any] | None:
    try:
        bundle = opened.bundle(path)
    except RVQCError as error:
        problems.append(str(error))
        return None
    return {
        "name": bundle.name,
        "hash": bundle.hash,
        "views": list(bundle.views),
        "license": bundle.description["license"],
        "path": str(bundle.path),
    }


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "segment": segment,
    "scan": scan,
    "batch": batch,
    "refine": refine,
    "check": check,
}
