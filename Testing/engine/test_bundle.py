"""Bundles: written whole, read whole, and refused with a sentence that names the file when anything is not as it was."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_tiny_bundle
from safetensors.torch import load_file, save_file

from RVQCLib import bundle as bundle_module
from RVQCLib.bundle import (
    check_target,
    entries,
    join_bundles,
    load_bundle,
    model_hash,
    replace_calibration,
    shipped_bundle,
    write_bundle,
)
from RVQCLib.files import BundleError, write_json
from RVQCLib.networks import build
from RVQCLib.slices import Sampling

Change = Callable[[dict[str, Any]], Any]


def rewrite(path: Path, change: Change) -> None:
    """Change ``bundle.json`` as someone would who knows how its checksum is made: SHA-256 of the rest, keys sorted."""
    content = json.loads((path / "bundle.json").read_text())
    content.pop("checksum")
    change(content)
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    write_json(path / "bundle.json", {**content, "checksum": checksum})


def read(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """What `write_bundle` takes, from a bundle's folder."""
    description = json.loads((path / "bundle.json").read_text())
    files = [entry["file"] for part in description["views"].values() for entry in entries(part)]
    return description, {file: load_file(path / file) for file in files}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(BundleError) as caught:
        load_bundle(path).models("SA", "cpu")
    sentence = str(caught.value)
    assert all(word in sentence for word in (str(path), *words)), sentence
    assert sentence.endswith(".") and "\n" not in sentence.strip()


def test_weights_that_may_not_be_read_are_named(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(file: Path) -> str:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("RVQCLib.bundle.sha256", closed)
    with pytest.raises(
        BundleError, match=r"segmenter1\.safetensors cannot be read \(Permission denied\); check its rights\."
    ):
        load_bundle(own_bundle)


def test_a_bundle_opens_with_its_views_and_networks(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert (bundle.name, bundle.views) == ("tiny", ("SA", "LA"))
    models = bundle.models("SA", "cpu")
    assert models.names == ("BN1", "BN2", "BN1") and models.calibration is None and models.device == "cpu"
    assert (models.sampling.size, models.sampling.spacing_mm) == (32, 4.0)
    for network in (*models.segmenters, models.qc, models.locator):
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert bundle.models("SA", "cpu") is models
    assert bundle.models("LA", "cpu") is not models


def test_a_consensus_is_one_more_candidate_where_there_are_several(own_bundle: Path) -> None:
    rewrite(own_bundle, lambda content: content["views"]["SA"].update(consensus=True))
    models = load_bundle(own_bundle).models("SA", "cpu")
    assert models.consensus and models.names == ("BN1", "BN2", "BN1", "mean") and len(models.segmenters) == 3
    rewrite(
        own_bundle, lambda content: content["views"]["SA"].update(segmenters=content["views"]["SA"]["segmenters"][:1])
    )
    models = load_bundle(own_bundle).models("SA", "cpu")
    assert not models.consensus and models.names == ("BN1",)


def test_the_hash_is_that_of_what_is_on_the_disk(tiny_bundle: Path, own_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert bundle.hash == hashlib.sha256((tiny_bundle / "bundle.json").read_bytes()).hexdigest()
    moved = shutil.copytree(tiny_bundle, tmp_path / "moved")
    assert load_bundle(moved).hash == load_bundle(str(tiny_bundle)).hash == bundle.hash
    assert load_bundle(own_bundle).hash != bundle.hash


def test_the_same_weights_make_the_same_bundle(own_bundle: Path, tmp_path: Path) -> None:
    """Every file byte for byte, and one other weight another hash."""
    again = tmp_path / "again"
    write_bundle(again, *read(own_bundle))
    names = sorted(p.relative_to(own_bundle) for p in own_bundle.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file()) and len(names) == 6
    assert all((own_bundle / name).read_bytes() == (again / name).read_bytes() for name in names)
    description, weights = read(own_bundle)
    weights["SA/qc.safetensors"]["decoder.0.bias"][0] += 1
    write_bundle(again, description, weights)
    assert load_bundle(again).hash != load_bundle(own_bundle).hash


def test_the_model_hash_is_of_networks_and_sampling_only(tiny_bundle: Path) -> None:
    part = load_bundle(tiny_bundle).description["views"]["SA"]
    same = {**part, "calibration": {"anything": 1}, "training": {}}
    assert model_hash(same) == model_hash(part) == model_hash(json.loads(json.dumps(part)))
    others = [
        {**part, "sampling": {**part["sampling"], "spacing_mm": 4.5}},
        {**part, "segmenters": part["segmenters"][::-1]},
        {**part, "qc": {**part["qc"], "sha256": "0" * 64}},
        {**part, "locator": {**part["locator"], "parameters": {}}},
    ]
    assert len({model_hash(p) for p in (part, *others)}) == 5


def test_half_storage_rounds_matrices_only_and_keeps_masks(tmp_path: Path, tiny_bundle: Path) -> None:
    description, _ = read(tiny_bundle)
    torch.manual_seed(3)
    files = {e["file"]: e for part in description["views"].values() for e in entries(part)}
    weights = {f: build(e["network"], e["parameters"]).state_dict() for f, e in files.items()}
    write_bundle(tmp_path / "half", description, weights)
    write_bundle(tmp_path / "full", description, weights, half=False)
    for file, exact in weights.items():
        half, full = load_file(tmp_path / "half" / file), load_file(tmp_path / "full" / file)
        for name, value in exact.items():
            assert torch.equal(full[name], value)
            expected = value.half() if value.dim() > 1 else value
            assert half[name].dtype == expected.dtype and torch.equal(half[name], expected)
    size = {k: sum(p.stat().st_size for p in (tmp_path / k).rglob("*.safetensors")) for k in ("half", "full")}
    assert size["half"] < 0.75 * size["full"]
    image = torch.rand(4, 1, 32, 32)
    half, full = (load_bundle(tmp_path / k).models("SA", "cpu") for k in ("half", "full"))
    for a, b in zip(half.segmenters, full.segmenters, strict=True):
        assert all(p.dtype == torch.float32 for p in a.parameters())
        with torch.inference_mode():
            assert (a(image).argmax(1) == b(image).argmax(1)).float().mean() > 0.995


@pytest.mark.parametrize("file", ["SA/segmenter2.safetensors", "SA/qc.safetensors", "SA/locator.safetensors"])
@pytest.mark.parametrize("place", [3, 0.5, -1])
def test_a_flipped_byte_in_the_weights(own_bundle: Path, file: str, place: float) -> None:
    data = bytearray((own_bundle / file).read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 4
    (own_bundle / file).write_bytes(data)
    refused(own_bundle, file, "checksum")


def test_a_flipped_byte_anywhere_in_bundle_json(own_bundle: Path) -> None:
    """Every 7th byte, one after the other: refused, or not a change of content (white space)."""
    path = own_bundle / "bundle.json"
    good = path.read_bytes()
    accepted = 0
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            load_bundle(own_bundle)
        except BundleError as error:
            assert str(own_bundle) in str(error)
        else:
            accepted += 1
            assert json.loads(path.read_bytes()) == json.loads(good)
    assert accepted < 0.02 * len(good) / 7


def test_another_spacing_by_hand_is_noticed(own_bundle: Path) -> None:
    path = own_bundle / "bundle.json"
    path.write_text(path.read_text().replace('"spacing_mm": 4.0', '"spacing_mm": 1.0'))
    refused(own_bundle, "bundle.json", "checksum")


def test_a_missing_file(own_bundle: Path) -> None:
    (own_bundle / "SA" / "segmenter3.safetensors").unlink()
    refused(own_bundle, "segmenter3.safetensors", "missing")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(own_bundle: Path, share: float) -> None:
    file = own_bundle / "SA" / "segmenter1.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refused(own_bundle, "segmenter1.safetensors", "checksum")

    def forge(content: dict[str, Any]) -> None:
        content["views"]["SA"]["segmenters"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()

    rewrite(own_bundle, forge)
    refused(own_bundle, "segmenter1.safetensors", "does not fit")


def test_weights_of_another_network(own_bundle: Path) -> None:
    def forge(content: dict[str, Any]) -> None:
        content["views"]["SA"]["segmenters"][0]["parameters"]["width"] = 5

    rewrite(own_bundle, forge)
    refused(own_bundle, "segmenter1.safetensors", "does not fit its network BN1")


def test_weights_that_lack_a_tensor(own_bundle: Path) -> None:
    file = own_bundle / "SA" / "qc.safetensors"
    weights = load_file(file)
    weights.pop("decoder.0.bias")
    save_file(weights, file)

    def forge(content: dict[str, Any]) -> None:
        content["views"]["SA"]["qc"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()

    rewrite(own_bundle, forge)
    refused(own_bundle, "qc.safetensors", "decoder.0.bias")


@pytest.mark.parametrize("network", ["BN9", "torch.nn:Conv2d"])
def test_an_unknown_or_foreign_network(own_bundle: Path, network: str) -> None:
    rewrite(own_bundle, lambda content: content["views"]["SA"]["qc"].update(network=network))
    assert load_bundle(own_bundle).name == "tiny"  # it may be looked at
    refused(own_bundle, "qc.safetensors", network)


@pytest.mark.parametrize("schema", [0, 2, "1", None, [1]])
def test_an_unknown_schema(own_bundle: Path, schema: Any) -> None:
    rewrite(own_bundle, lambda content: content.update(schema=schema))
    refused(own_bundle, "schema", "update RVQC")


@pytest.mark.parametrize("outside", ["../secret.safetensors", "{absolute}", "SA/../../secret.safetensors"])
def test_a_path_outside_the_bundle(own_bundle: Path, outside: str) -> None:
    secret = own_bundle.parent / "secret.safetensors"
    shutil.copy(own_bundle / "SA" / "qc.safetensors", secret)
    outside = outside.format(absolute=secret)
    rewrite(own_bundle, lambda content: content["views"]["SA"]["qc"].update(file=outside))
    refused(own_bundle, "outside", outside)


def test_a_link_to_outside_the_bundle(own_bundle: Path) -> None:
    file, secret = own_bundle / "SA" / "qc.safetensors", own_bundle.parent / "secret.safetensors"
    file.rename(secret)
    file.symlink_to(secret)
    refused(own_bundle, "outside")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '"bundle"', "{}", "\x00\x01", '{"schema": 1,}'])
def test_garbled_json(own_bundle: Path, text: str) -> None:
    (own_bundle / "bundle.json").write_text(text)
    refused(own_bundle)


def test_json_that_is_no_text(own_bundle: Path) -> None:
    (own_bundle / "bundle.json").write_bytes(b'\xff\xfe{"schema": 1}')
    refused(own_bundle, "bundle.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("views"),
        lambda c: c.update(views=["SA"]),
        lambda c: c.pop("name"),
        lambda c: c["views"]["SA"].pop("qc"),
        lambda c: c["views"]["SA"].update(segmenters=None),
        lambda c: c["views"]["SA"]["locator"].pop("sha256"),
        lambda c: c["views"]["SA"]["locator"].update(file=7),
        lambda c: c["views"]["SA"]["locator"].update(file="a\0b"),
        lambda c: c["views"]["SA"].pop("sampling"),
        lambda c: c["views"]["SA"].update(sampling={"zoom": 1}),
        lambda c: c["views"]["SA"].update(calibration={}),
        lambda c: c["views"]["SA"].update(calibration="good"),
    ],
)
def test_entries_that_lack_or_are_garbled(own_bundle: Path, change: Change) -> None:
    rewrite(own_bundle, change)
    refused(own_bundle, "bundle.json")


@pytest.mark.parametrize("kind", ["nothing", "empty", "file", "study"])
def test_what_is_no_bundle(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.write_text("not a folder")
    elif kind != "nothing":
        path.mkdir()
    if kind == "study":
        (path / "patient001_frame01.nii.gz").write_bytes(b"")
    refused(path, "no bundle")


def test_a_view_that_it_lacks(own_bundle: Path) -> None:
    with pytest.raises(BundleError, match=f"{own_bundle} has no LA networks, only SA; choose another bundle"):
        load_bundle(own_bundle).models("LA", "cpu")


def test_a_calibration_of_other_networks(own_bundle: Path) -> None:
    replace_calibration(own_bundle, {"SA": {"fences": {"all": 1}}})
    calibration = load_bundle(own_bundle).models("SA", "cpu").calibration
    assert calibration == {
        "fences": {"all": 1},
        "model": model_hash(load_bundle(own_bundle).description["views"]["SA"]),
    }
    rewrite(own_bundle, lambda content: content["views"]["SA"]["sampling"].update(spacing_mm=4.5))
    refused(own_bundle, "made for other networks", "rvqc calibrate")


def test_a_stale_calibration_is_not_written(own_bundle: Path, tmp_path: Path) -> None:
    replace_calibration(own_bundle, {"SA": {"fences": {}}})
    description, weights = read(own_bundle)
    write_bundle(tmp_path / "same", description, weights)
    assert load_bundle(tmp_path / "same").description["views"]["SA"]["calibration"]["fences"] == {}
    weights["SA/qc.safetensors"]["decoder.0.bias"][0] += 1
    with pytest.raises(BundleError, match="other networks"):
        write_bundle(tmp_path / "other", description, weights)
    assert not (tmp_path / "other").exists()


def test_a_new_calibration_leaves_the_networks(own_bundle: Path) -> None:
    before = load_bundle(own_bundle)
    replace_calibration(own_bundle, {"SA": {"fences": {}}})
    after = load_bundle(own_bundle)
    assert after.hash != before.hash
    assert entries(after.description["views"]["SA"]) == entries(before.description["views"]["SA"])
    assert read(own_bundle)[0].keys() == before.description.keys()


def test_the_training_log_lies_beside_the_networks(own_bundle: Path, tmp_path: Path) -> None:
    description, weights = read(own_bundle)
    description["views"]["SA"]["training_log"] = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]
    write_bundle(tmp_path / "b", description, weights)
    lines = (tmp_path / "b" / "SA" / "training.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert "training_log" not in load_bundle(tmp_path / "b").description["views"]["SA"]


def test_writing_is_whole_or_nothing(own_bundle: Path, tmp_path: Path) -> None:
    description, weights = read(own_bundle)
    good = load_bundle(own_bundle).hash
    weights.pop("SA/locator.safetensors")
    for target in (own_bundle, tmp_path / "new"):
        with pytest.raises(KeyError):
            write_bundle(target, description, weights)
    assert load_bundle(own_bundle).hash == good
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own"]


def test_only_a_bundle_is_replaced_by_a_bundle(own_bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years")
    note = tmp_path / "note.txt"
    note.write_text("mine")
    for target in (home, note):
        with pytest.raises(BundleError, match=f"{target} exists and is no bundle"):
            write_bundle(target, *read(own_bundle))
    assert (home / "thesis.txt").read_text() == "years" and note.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    for target in (own_bundle, tmp_path / "empty", tmp_path / "new"):
        check_target(target)
        write_bundle(target, *read(own_bundle))
        assert load_bundle(target).name == "tiny"


def test_sampling_of_a_bundle_is_that_of_its_training(own_bundle: Path) -> None:
    stored = load_bundle(own_bundle).description["views"]["SA"]["sampling"]
    assert Sampling.from_json(stored).to_json() == {**stored, "clip_percentiles": tuple(stored["clip_percentiles"])}


def test_the_shipped_bundle_is_found_or_its_absence_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "RVQCSegment" / "RVQCLib"
    package.mkdir(parents=True)
    monkeypatch.setattr(bundle_module, "__file__", str(package / "bundle.py"))
    with pytest.raises(BundleError, match="ships no bundle; name one with --bundle"):
        shipped_bundle()
    for folder in (package.parent / "Resources" / "Bundles", package / "Bundles"):  # the extension, then the wheel
        home = folder / bundle_module.DEFAULT_NAME
        home.mkdir(parents=True)
        (home / "bundle.json").write_text("{}")
        assert shipped_bundle() == home


def test_the_shipped_bundle_is_whole() -> None:
    try:
        path = shipped_bundle()
    except BundleError as error:
        pytest.skip(f"there is no shipped bundle to open: {error}")
    bundle = load_bundle(path)
    assert "SA" in bundle.views
    models = bundle.models("SA", "cpu")
    assert models.calibration is not None and len(models.segmenters) >= 2
    size = models.sampling.size
    with torch.inference_mode():
        assert models.segmenters[0](torch.rand(1, 1, size, size)).shape == (1, 4, size, size)
    parts = bundle.description["views"]["SA"]["training"]["split"]
    assert not set(parts["train"]) & set(parts["validation"]) and not set(parts["train"]) & set(parts["test"])


def test_the_same_bundle_gives_the_same_logits_every_time(tiny_bundle: Path) -> None:
    image = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        one, two = (load_bundle(tiny_bundle).models("LA", "cpu").segmenters[0](image).numpy() for _ in range(2))
    np.testing.assert_array_equal(one, two)


def whole(folder: Path, view: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / view).iterdir()}


def test_joining_keeps_every_view_as_it_was(own_bundle: Path, tmp_path: Path) -> None:
    replace_calibration(own_bundle, {"SA": {"fences": {"all": 1}}})
    rewrite(own_bundle, lambda content: content.update(license="non-commercial", citation="Bernard"))
    other = write_tiny_bundle(tmp_path / "other", views=("LA",))
    rewrite(other, lambda content: content["views"]["LA"].update(caution="synthetic only"))
    before = load_bundle(own_bundle).description["views"]["SA"]
    join_bundles(own_bundle, other, tmp_path / "both")
    both = load_bundle(tmp_path / "both")
    assert both.views == ("SA", "LA") and both.name == "tiny" and both.cautions == {"LA": "synthetic only"}
    assert whole(both.path, "SA") == whole(own_bundle, "SA") and whole(both.path, "LA") == whole(other, "LA")
    assert {k: v for k, v in both.description["views"]["SA"].items() if k in before} == before
    assert both.models("SA", "cpu").calibration["fences"] == {"all": 1}
    assert both.description["license"] == "SA: non-commercial; LA: Apache-2.0"
    assert both.description["citation"] == "SA: Bernard"


def test_joining_again_replaces_a_view_and_its_terms(own_bundle: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", views=("LA",))
    join_bundles(own_bundle, other, own_bundle)
    rewrite(other, lambda content: content.update(license="CC0"))
    join_bundles(own_bundle, other, own_bundle, name="both")
    description = load_bundle(own_bundle).description
    assert description["license"] == "SA: Apache-2.0; LA: CC0" and description["name"] == "both"
    assert description["views"]["SA"]["license"] == "Apache-2.0"
    replace_calibration(own_bundle, {"LA": {"fences": {}}})
    views = load_bundle(own_bundle).description["views"]
    assert views["SA"]["calibration"] is None and views["LA"]["calibration"]["fences"] == {}
    join_bundles(other, other, tmp_path / "one")
    assert load_bundle(tmp_path / "one").description["license"] == "CC0"


def test_an_opened_bundle_travels_without_its_networks(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    bundle.models("SA", "cpu")
    again = pickle.loads(pickle.dumps(bundle))
    assert again == load_bundle(tiny_bundle) and again.models("SA", "cpu").names == bundle.models("SA", "cpu").names


def test_nothing_else_than_bundles_is_joined(own_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        join_bundles(own_bundle, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        join_bundles(own_bundle, own_bundle, tmp_path / "note.txt")
