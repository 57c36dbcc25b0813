"""Bundles: all that is needed to run, in a folder of safetensors and one JSON. Nothing in it can execute.

``bundle.json`` says what the bundle is; ``<VIEW>/segmenter1.safetensors`` …, ``<VIEW>/qc.safetensors`` and
``<VIEW>/locator.safetensors`` are the weights. A bundle that was refined also has ``<VIEW>/refined1.safetensors`` …: a second
pool of segmenters with its own calibration, for stacks that the first cannot be trusted with. Every file is checked against its SHA-256 before anything is built, and
``bundle.json`` against the one that it carries of itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from RVQCLib.domain import Domain
from RVQCLib.files import BundleError, RVQCError, check_replaceable, read_json, sha256, whole_folder, write_json
from RVQCLib.slices import Sampling

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEMA = 1
DEFAULT_NAME = "RVQC-ACDC-light"


@dataclass(frozen=True)
class ViewModels:
    """The networks of one view, in evaluation mode on `device`.

    With `consensus`, the mean of the segmenters' probabilities is one more candidate, named last in `names`. `refined` is the
    second pool of a refined bundle, with the same locator and R, for images of its `domain` (None: for all).
    """

    sampling: Sampling
    locator: nn.Module
    segmenters: tuple[nn.Module, ...]
    names: tuple[str, ...]
    qc: nn.Module
    calibration: dict[str, Any] | None
    device: str
    consensus: bool = False
    refined: ViewModels | None = None
    domain: Domain | None = None

    @property
    def latest(self) -> ViewModels:
        """The pool that was trained last: the refined one, where there is one."""
        return self.refined or self


@dataclass
class Bundle:
    """An opened bundle whose files are whole. Networks are built when they are first asked for, once a device.

    `hash` is the SHA-256 of ``bundle.json``, which holds those of all weights: it names the bundle in every result.
    """

    path: Path
    description: dict[str, Any]
    hash: str
    allow: tuple[str, ...] = ()
    _models: dict[tuple[str, str], ViewModels] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets no networks but builds its own: tensors travel as open files, those of a GPU not at all."""
        return {**vars(self), "_models": {}}

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.description["name"]

    @property
    def views(self) -> tuple[str, ...]:
        """The views it can segment."""
        return tuple(self.description["views"])

    @property
    def cautions(self) -> dict[str, str]:
        """By view, what a user must know before trusting its masks; no entry where there is nothing to say."""
        return {view: part["caution"] for view, part in self.description["views"].items() if part.get("caution")}

    def check_calibrated(self, view: str) -> None:
        """Raise RVQCError where a view has no calibration."""
        if not self.description["views"][view].get("calibration"):
            raise RVQCError(f"The bundle {self.path} is not calibrated for {view}; run 'rvqc calibrate' first.")

    def models(self, view: str, device: str) -> ViewModels:
        """The networks of `view` on `device`.

        Raises
        ------
        BundleError
            The bundle has no such view, or its weights do not fit its networks.
        """
        if view not in self.views:
            raise BundleError(
                f"The bundle {self.path} has no {view} networks, only {', '.join(self.views)}; choose another bundle."
            )
        key = (view, device)
        if key not in self._models:
            self._models[key] = self._build(view, device)
        return self._models[key]

    def _build(self, view: str, device: str) -> ViewModels:
        part = self.description["views"][view]
        first = ViewModels(
            sampling=Sampling.from_json(part["sampling"]),
            locator=self._network(part["locator"], device),
            qc=self._network(part["qc"], device),
            device=device,
            **self._pool(part, device),
        )
        later = refined_part(part)
        if later is None:
            return first
        second = self._pool(later, device)
        second["names"] = tuple(f"refined {name}" for name in second["names"])
        domain = Domain.from_json(later["domain"]) if "domain" in later else None
        return replace(first, refined=replace(first, **second, domain=domain))

    def _pool(self, part: dict[str, Any], device: str) -> dict[str, Any]:
        """The fields of a pool of segmenters."""
        segmenters = part["segmenters"]
        consensus = bool(part.get("consensus")) and len(segmenters) > 1
        return {
            "segmenters": tuple(self._network(entry, device) for entry in segmenters),
            "names": tuple(entry["network"] for entry in segmenters) + (("mean",) if consensus else ()),
            "calibration": part.get("calibration"),
            "consensus": consensus,
        }

    def _network(self, entry: dict[str, Any], device: str) -> nn.Module:
        import torch
        from safetensors.torch import load_file

        from RVQCLib.networks import build

        file = self.path / entry["file"]
        try:
            model = build(entry["network"], entry["parameters"], allow=self.allow)
        except RVQCError as error:
            raise BundleError(f"{file}: {error}") from error
        try:
            weights = load_file(file)
            model.load_state_dict(
                {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
            )
        except Exception as error:
            first = " ".join(" ".join(str(error).splitlines()[:2]).split())  # torch goes on, a line a tensor
            raise BundleError(
                f"{file} does not fit its network {entry['network']} ({first}); get the bundle again."
            ) from error
        return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def load_bundle(path: str | Path, *, allow: Sequence[str] = ()) -> Bundle:
    """Open a bundle and check it whole: schema, files, checksums, and that its calibration is of these networks.

    Parameters
    ----------
    allow
        Names of network factories outside RVQC that the user trusts (see `networks.build`).

    Raises
    ------
    BundleError
        With the reason, for anything that is not as it was written.
    """
    path = Path(path)
    if not (path / "bundle.json").is_file():
        raise BundleError(f"{path} is no bundle (it has no bundle.json); give the folder that 'rvqc train' wrote.")
    try:
        description = read_json(path / "bundle.json")
    except RVQCError as error:
        raise BundleError(str(error)) from error
    _check(path, description)
    return Bundle(path, description, sha256(path / "bundle.json"), tuple(allow))


def _check(path: Path, description: Any) -> None:
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        found = description.get("schema") if isinstance(description, dict) else "none"
        raise BundleError(f"{path} has bundle schema {found}, this RVQC reads {SCHEMA}; update RVQC or the bundle.")
    if description.get("checksum") != _checksum(description):
        raise BundleError(f"{path}/bundle.json is not as it was written (its checksum differs); get the bundle again.")
    try:
        for view, part in description["views"].items():
            for entry in entries(part):
                _check_file(path, entry)
            for pool in pools(part):
                if (calibration := pool.get("calibration")) is not None and calibration["model"] != model_hash(pool):
                    raise BundleError(
                        f"The {view} calibration in {path} was made for other networks; run 'rvqc calibrate' again."
                    )
            Sampling.from_json(part["sampling"])
            if "domain" in pools(part)[-1]:
                Domain.from_json(pools(part)[-1]["domain"])
        description["name"], description["license"]
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{error.filename or path} cannot be read ({error.strerror}); check its rights.") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{path}/bundle.json lacks or garbles the entry {error}; get the bundle again.") from error


def _check_file(path: Path, entry: dict[str, Any]) -> None:
    file = path / entry["file"]
    if not file.resolve().is_relative_to(path.resolve()):
        raise BundleError(f"{path}/bundle.json points outside the bundle ({entry['file']}); do not use it.")
    if not file.is_file():
        raise BundleError(f"{file} is missing; get the bundle again.")
    if sha256(file) != entry["sha256"]:
        raise BundleError(f"{file} is not the file that was written (its checksum differs); get the bundle again.")


def entries(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The network entries of one view's part of ``bundle.json``: segmenters of all pools, QC module, locator."""
    return [*(entry for pool in pools(part) for entry in pool["segmenters"]), part["qc"], part["locator"]]


def pools(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The view's part as it is, and with the refined pool in the place of the first, where there is one."""
    later = refined_part(part)
    return [part] if later is None else [part, later]


def refined_part(part: dict[str, Any]) -> dict[str, Any] | None:
    """The view's part with the segmenters and the calibration of its refined pool; None without one."""
    if "refined" not in part:
        return None
    shared = {key: value for key, value in part.items() if key not in ("refined", "calibration")}
    return {**shared, **part["refined"]}


def _checksum(description: dict[str, Any]) -> str:
    """The SHA-256 that ``bundle.json`` carries of all its other entries."""
    content = {key: value for key, value in description.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    content = json.loads(json.dumps(description))  # as a reader will see it: lists for tuples, texts for keys
    write_json(folder / "bundle.json", {**content, "checksum": _checksum(content)})


def model_hash(part: dict[str, Any]) -> str:
    """A hash of one view's networks without a refined pool, sampling and pool of candidates: what a calibration is valid
    for. Of the refined pool it is that of `refined_part`."""
    own = [*part["segmenters"], part["qc"], part["locator"]]
    networks = [[e["network"], e["parameters"], e["sha256"]] for e in own]
    identity = [networks, part["sampling"], bool(part.get("consensus"))]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def write_bundle(
    path: str | Path, description: dict[str, Any], weights: dict[str, dict[str, Tensor]], *, half: bool = True
) -> None:
    """Write a bundle whole, or nothing.

    Parameters
    ----------
    description
        The content of ``bundle.json``; the checksums are filled in here.
    weights
        State dict by the ``file`` of each network entry. With `half`, matrices and kernels are stored as float16.

    Raises
    ------
    BundleError
        `path` exists and is something else than a bundle, or a calibration in `description` is of other networks.
    """
    from safetensors.torch import save_file

    check_target(path)
    with whole_folder(path) as folder:
        for part in description["views"].values():
            for entry in entries(part):
                file = folder / entry["file"]
                file.parent.mkdir(parents=True, exist_ok=True)
                save_file({k: _stored(v, half) for k, v in weights[entry["file"]].items()}, file)
                file.chmod(0o644)  # safetensors makes files that only their owner can read
                entry["sha256"] = sha256(file)
            for pool in pools(part):
                calibration = pool.get("calibration")
                if calibration is not None and calibration.setdefault("model", model_hash(pool)) != model_hash(pool):
                    raise BundleError(
                        f"The calibration for {path} was made for other networks; leave it out and calibrate anew."
                    )
            log_lines = part.pop("training_log", None)
            if log_lines is not None:
                log_file = (folder / part["qc"]["file"]).with_name("training.jsonl")
                log_file.write_text("\n".join(json.dumps(e) for e in log_lines) + "\n")
        _write_description(folder, description)


def check_target(path: str | Path) -> None:
    """Refuse to put a bundle where something else is: writing replaces the folder, so only a bundle may be replaced.

    Raises
    ------
    RVQCError
        `path` is a file, a folder that holds other things than a bundle (`BundleError`), or one that cannot be replaced.
    """
    check_replaceable(path)
    path = Path(path)
    replaceable = (path / "bundle.json").is_file() or (path.is_dir() and not any(path.iterdir()))
    if path.exists() and not replaceable:
        raise BundleError(f"{path} exists and is no bundle, so it is not replaced; name a new folder for the bundle.")


def same_networks(one: Path, other: Path, views: Sequence[str]) -> bool:
    """Whether both folders hold bundles with the same networks of `views`, whatever their calibrations."""
    if not all((path / "bundle.json").is_file() for path in (one, other)):
        return False
    parts = [read_json(path / "bundle.json")["views"] for path in (one, other)]
    if not all(view in part for part in parts for view in views):
        return False
    first, second = ([[e["sha256"] for e in entries(part[view])] for view in views] for part in parts)
    return first == second


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous().clone()
    return value.half() if half and value.dim() > 1 and value.is_floating_point() else value


def replace_calibration(
    path: str | Path, calibrations: dict[str, dict[str, Any]], *, refined: dict[str, dict[str, Any]] | None = None
) -> None:
    """Put new calibrations, by view, into the bundle at `path`, and those of `refined` pools; its networks stay as they are."""
    bundle = load_bundle(path)
    description = json.loads(json.dumps(bundle.description))
    for view, calibration in calibrations.items():
        part = description["views"][view]
        part["calibration"] = {**calibration, "model": model_hash(part)}
    for view, calibration in (refined or {}).items():
        part = description["views"][view]
        part["refined"]["calibration"] = {**calibration, "model": model_hash(pools(part)[1])}
    _write_description(Path(path), description)


def join_bundles(base: str | Path, addition: str | Path, out: str | Path, *, name: str = "") -> None:
    """Write a bundle to `out` with the views of `base` and those of `addition`, which replace views of the same name.

    Networks and calibrations stay as they are, byte for byte. Every view keeps its own licence and citation; those of the
    whole bundle name them all.

    Raises
    ------
    BundleError
        One of the two is no whole bundle, or `out` is something else than a bundle.
    """
    first, second = load_bundle(base), load_bundle(addition)
    check_target(out)
    views = {**_with_terms(first.description), **_with_terms(second.description)}
    description = {**first.description, "name": name or first.name, "created": second.description["created"]}
    description |= {key: _together(views, key) for key in ("license", "citation")}
    with whole_folder(out) as folder:
        shutil.copytree(first.path, folder, dirs_exist_ok=True)
        for view in second.views:
            shutil.rmtree(folder / view, ignore_errors=True)
            shutil.copytree(second.path / view, folder / view)
        _write_description(folder, {**description, "views": views})
    load_bundle(out)


def _with_terms(description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The views of a bundle, each with the licence and the citation that hold for it."""
    terms = {key: description.get(key, "") for key in ("license", "citation")}
    return {view: {**terms, **part} for view, part in description["views"].items()}


def _together(views: dict[str, dict[str, Any]], key: str) -> str:
    """One text for all views: the common one, or each with the name of its view."""
    said = {view: part[key] for view, part in views.items() if part[key]}
    texts = set(said.values())
    return (
        texts.pop() if len(texts) == 1 and len(said) == len(views) else "; ".join(f"{v}: {t}" for v, t in said.items())
    )


def shipped_bundle() -> Path:
    """The bundle that comes with RVQC: inside the installed package, or beside it in the extension.

    Raises
    ------
    BundleError
        This installation has none.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "Bundles", here.parent / "Resources" / "Bundles"):
        if (folder / DEFAULT_NAME / "bundle.json").is_file():
            return folder / DEFAULT_NAME
    raise BundleError("This installation of RVQC ships no bundle; name one with --bundle.")
