"""From a folder of labelled studies to a calibrated bundle, and to the same bundle after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import schematic_study, write_acdc, write_tiny_bundle

from RVQCLib import training
from RVQCLib.bundle import entries, join_bundles, load_bundle, replace_calibration, shipped_bundle
from RVQCLib.calibration import calibrate_bundle
from RVQCLib.card import card
from RVQCLib.cli import main
from RVQCLib.dataset import split, unseen_groups
from RVQCLib.files import BundleError, RVQCError
from RVQCLib.fitting import Snapshot
from RVQCLib.networks import NETWORKS
from RVQCLib.phantom import phantom_study, write_phantom
from RVQCLib.pipeline import segment_study
from RVQCLib.runs import examples_for, more_examples
from RVQCLib.slices import Sampling
from RVQCLib.study import Study, find_studies
from RVQCLib.training import Terms, TrainingConfig, choose_candidates, train_bundle

pytestmark = pytest.mark.usefixtures("one_core")

STAGES = {"stages": 3}
TINY = TrainingConfig(
    networks=("BN1", "BN2"),
    width=4,
    parameters={"BN1": STAGES, "BN2": STAGES, "AE": {"width": 4, "latent": 8}},
    epochs=2,
    qc_epochs=2,
    locator_epochs=2,
    batch=8,
    source_size=40,
    sampling=Sampling(spacing_mm=4.0, size=32, locator_spacing_mm=6.0, locator_size=32),
)
Trained = tuple[Path, dict[str, Any], list[dict[str, Any]]]
RUNS = ["segmenter1", "segmenter2", "qc", "locator"]


@pytest.fixture(scope="module")
def trained(one_core: None, tiny_acdc: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One whole training: the bundle's folder, what was returned, what was reported."""
    out, events = tmp_path_factory.mktemp("training") / "bundle", []
    return out, train_bundle(tiny_acdc, out, TINY, name="tiny", device="cpu", report=events.append), events


def snapshot(epoch: int, score: float) -> Snapshot:
    return Snapshot(epoch, score, {}, {})


@pytest.mark.parametrize(
    ("m_best", "expected"),
    [
        (1, [("b", 3)]),
        (2, [("b", 3), ("a", 7)]),  # the best of a before b's second, though that is better
        (3, [("b", 3), ("a", 7), ("b", 1)]),
        (4, [("b", 3), ("a", 7), ("b", 1), ("a", 2)]),
        (9, [("b", 3), ("a", 7), ("b", 1), ("a", 2)]),
    ],
)
def test_the_candidates_by_hand(m_best: int, expected: list) -> None:
    kept = {"a": [snapshot(7, 0.80), snapshot(2, 0.60)], "b": [snapshot(3, 0.90), snapshot(1, 0.85)], "c": []}
    assert [(name, s.epoch) for name, s in choose_candidates(kept, m_best)] == expected


def test_the_runs_of_a_configuration() -> None:
    config = TrainingConfig(
        networks=("BN1", "BN2", "BN2", "my.nets:make"),
        width=12,
        parameters={"BN2": {"dropout": 0.1}, "my.nets:make": {"depth": 3}, "AE": {"latent": 9}},
        m_best=4,
        epochs=50,
        qc_epochs=7,
        locator_epochs=5,
        corruption=0.0,
        batch=6,
        seed=10,
        precision="bfloat16",
        sampling=Sampling(size=96, locator_size=64),
    )
    runs = config.runs()
    assert list(runs) == ["segmenter1", "segmenter2", "segmenter3", "segmenter4", "qc", "locator"]
    assert [run.task for run in runs.values()] == ["segmenter"] * 4 + ["qc", "locator"]
    assert [run.network for run in runs.values()] == ["BN1", "BN2", "BN2", "my.nets:make", "AE", "BN1"]
    assert [run.seed for run in runs.values()] == [10, 11, 12, 13, 10, 10]
    assert [run.epochs for run in runs.values()] == [50] * 4 + [7, 5]
    assert [run.size for run in runs.values()] == [96] * 5 + [64]
    assert [run.keep for run in runs.values()] == [4] * 4 + [1, 1]
    assert runs["segmenter1"].spread == 5 and runs["segmenter1"].parameters == {"width": 12}
    assert runs["segmenter2"].parameters == {"width": 12, "dropout": 0.1}
    assert runs["segmenter4"].parameters == {"depth": 3}  # what a foreign factory takes is not ours to add to
    assert runs["qc"].parameters == {"latent": 9} and runs["qc"].corruption == 0.0
    assert {(run.batch, run.precision) for run in runs.values()} == {(6, "bfloat16")}
    assert set(NETWORKS) == {"BN1", "BN2", "AE"}
    assert json.loads(json.dumps(config.to_json())) == config.to_json()


def test_the_locator_sees_the_field_and_the_others_the_heart(tiny_acdc: Path) -> None:
    sources, runs = find_studies(tiny_acdc)[:2], TINY.runs()
    sizes = {
        (name, train): examples_for(runs[name], sources, TINY, train=train)[0].images.shape[-1]
        for name in ("segmenter1", "qc", "locator")
        for train in (True, False)
    }
    expected = {("segmenter1", True): 40, ("segmenter1", False): 32, ("qc", True): 40, ("qc", False): 32}
    assert sizes == {**expected, ("locator", True): 32, ("locator", False): 32}


def test_a_training_ends_in_a_bundle_that_opens_and_works(trained: Trained, make_study: Callable[..., Study]) -> None:
    out, returned, _ = trained
    bundle = load_bundle(out)
    assert bundle.description == returned and (bundle.name, bundle.views) == ("tiny", ("SA",))
    models = bundle.models("SA", "cpu")
    assert len(models.segmenters) == 3 and models.consensus
    assert set(models.names[:3]) == {"BN1", "BN2"} and models.names[3:] == ("mean",)
    assert models.sampling == TINY.sampling and models.calibration is not None
    result = segment_study(make_study("new", 99, views=("SA",)), bundle, device="cpu")
    assert [stack.mask.pixels.shape for stack in result.stacks] == [(3, 48, 52)] * 2


def test_the_bundle_says_how_it_was_made(trained: Trained, tiny_acdc: Path) -> None:
    _, description, _ = trained
    part = description["views"]["SA"]
    assert part["training"]["config"] == TINY.to_json() and part["training"]["data"] == tiny_acdc.name
    expected = split(find_studies(tiny_acdc), seed=0, validation=0.2, test=0.2)
    assert part["training"]["split"] == expected
    assert [len(names) for names in expected.values()] == [6, 2, 2]
    for entry in entries(part):
        assert entry["run"] in RUNS and entry["epoch"] in (1, 2)
        assert all(0 <= value <= 1 for value in entry["validation_dice"].values())
    assert part["qc"]["ceiling"] == part["qc"]["validation_dice"] and set(part["qc"]["ceiling"]) == {"LV", "MYO", "RV"}
    runs = [entry["run"] for entry in part["segmenters"]]
    assert sorted(runs[:2]) == ["segmenter1", "segmenter2"]  # the best of each before a second of any
    assert part["calibration"]["n_studies"] == 2 and part["calibration"]["n_stacks"] == 4
    assert description["license"] and description["intended_use"] and description["parent"] is None
    assert str(tiny_acdc.parent) not in json.dumps(description)


def test_every_epoch_of_every_run_is_told_and_logged(trained: Trained) -> None:
    out, _, events = trained
    epochs = [event for event in events if "epoch" in event]
    assert [(e["run"], e["epoch"]) for e in epochs] == [(run, epoch) for run in RUNS for epoch in (1, 2)]
    logged = [json.loads(line) for line in (out / "SA" / "training.jsonl").read_text().splitlines()]
    assert logged == epochs
    for run in RUNS:
        assert len((out.parent / "bundle.training" / f"{run}.jsonl").read_text().splitlines()) == 2


def weights(description: dict[str, Any]) -> list[str]:
    return [entry["sha256"] for entry in entries(description["views"]["SA"])]


def test_killed_and_called_again_is_the_same_bundle(tiny_acdc: Path, trained: Trained, tmp_path: Path) -> None:
    _, description, events = trained
    out, told = tmp_path / "bundle", []

    def kill(event: dict[str, Any]) -> None:
        told.append(event)
        if (event.get("run"), event.get("epoch")) == ("segmenter2", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bundle(tiny_acdc, out, TINY, name="tiny", device="cpu", report=kill)
    assert not out.exists()
    torch.manual_seed(2024)
    again = train_bundle(tiny_acdc, out, TINY, name="tiny", device="cpu", report=told.append)
    assert weights(again) == weights(description)
    epochs = [[(e["run"], e["epoch"], e["loss"]) for e in es if "epoch" in e] for es in (told, events)]
    assert epochs[0] == epochs[1]  # nothing was done twice
    assert again["views"]["SA"]["calibration"] == description["views"]["SA"]["calibration"]


def test_called_again_after_the_end_a_later_calibration_stays(
    tiny_acdc: Path, trained: Trained, tmp_path: Path
) -> None:
    out, events = tmp_path / "bundle", []
    for name in ("bundle", "bundle.training"):
        shutil.copytree(trained[0].with_name(name), tmp_path / name)
    calibration = {**load_bundle(out).description["views"]["SA"]["calibration"], "date": "2001-01-01"}
    replace_calibration(out, {"SA": calibration})
    was = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = train_bundle(tiny_acdc, out, TINY, name="tiny", device="cpu", report=events.append)
    assert again["views"]["SA"]["calibration"]["date"] == "2001-01-01"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == was
    assert [event["event"] for event in events] == ["warning"] and "nothing was done" in events[0]["message"]
    shutil.rmtree(out)
    again = train_bundle(tiny_acdc, out, TINY, name="tiny", device="cpu")
    assert weights(again) == weights(trained[1]) and again["views"]["SA"]["calibration"]["date"] != "2001-01-01"


def test_a_training_may_begin_from_a_bundle(tiny_acdc: Path, trained: Trained, tmp_path: Path) -> None:
    """Segmenters learn on from there and are never worse on the validation part; runs of 0 epochs stay, bit by bit."""
    first, description, _ = trained
    config = replace(TINY, epochs=1, qc_epochs=0, locator_epochs=0)
    events: list[dict[str, Any]] = []
    again = train_bundle(tiny_acdc, tmp_path / "more", config, start=first, device="cpu", report=events.append)
    old, new = description["views"]["SA"], again["views"]["SA"]
    for name in ("qc", "locator"):
        assert new[name]["sha256"] == old[name]["sha256"] and new[name]["epoch"] == 0
    assert new["training"]["config"]["start"] == load_bundle(first).hash
    assert [event["run"] for event in events if "epoch" in event] == ["segmenter1", "segmenter2"]

    def best(part: dict[str, Any], run: str) -> float:
        return max(sum(e["validation_dice"].values()) for e in part["segmenters"] if e["run"] == run)

    for run in ("segmenter1", "segmenter2"):
        assert best(new, run) >= best(old, run) - 1e-6
        began = {e["sha256"] for e in old["segmenters"] if e["run"] == run}
        later = [e for e in new["segmenters"] if e["run"] == run and e["epoch"] == 1]
        assert all(e["sha256"] not in began for e in later)
    # A third training must draw other augmented images than the second.
    nothing = replace(config, epochs=0)
    third = train_bundle(tiny_acdc, tmp_path / "third", nothing, start=tmp_path / "more", device="cpu")
    stored = [part["views"]["SA"]["training"]["config"] for part in (description, again, third)]
    assert [one["continuation"] for one in stored] == [0, 1, 2]
    seeds = [{run.seed for run in replace(TINY, continuation=n).runs().values()} for n in range(3)]
    assert not (seeds[0] & seeds[1] or seeds[1] & seeds[2])


def test_who_taught_the_start_is_not_forgotten(
    tiny_acdc: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training on another data set, and a third from it on the first."""
    monkeypatch.setattr(training, "calibrate_bundle", lambda *_, **__: {})
    other, nothing = tmp_path / "hospital", replace(TINY, epochs=0, qc_epochs=0, locator_epochs=0)
    other.mkdir()
    for number in range(201, 206):
        write_acdc(schematic_study(f"patient{number}", number, views=("SA",), group="RV"), other)
    first = load_bundle(trained[0])
    terms = Terms(citation="Ours, 2030")
    told = train_bundle(other, tmp_path / "second", nothing, start=first.path, device="cpu", terms=terms)
    parts, theirs = (one["views"]["SA"]["training"]["split"] for one in (told, first.description))
    own = split(find_studies(other), seed=0, validation=0.2, test=0.2)
    assert parts["train"] == sorted(own["train"] + theirs["train"])
    assert parts["validation"] == sorted(own["validation"] + theirs["validation"]) and parts["test"] == own["test"]
    assert told["parent"] == {"name": "tiny", "hash": first.hash}
    assert (told["license"], told["citation"]) == (first.description["license"], "Ours, 2030")
    assert told["views"]["SA"]["training"]["more"] == [tiny_acdc.name]
    assert unseen_groups((*find_studies(tiny_acdc), *find_studies(other)), told["views"]) == []
    said = card(load_bundle(tmp_path / "second"))
    assert f"Began from the networks of `tiny {first.hash}`." in said and "Refined from" not in said
    with pytest.raises(RVQCError, match=r"were trained on \w+, which is to validate or test"):
        train_bundle(tiny_acdc, tmp_path / "b", replace(nothing, seed=3), start=tmp_path / "second", device="cpu")
    again = {"training": {"split": theirs, "data": tiny_acdc.name}}
    training._inherit({"views": {"SA": again}}, "SA", first, Terms())
    assert again == {"training": {"split": theirs, "data": tiny_acdc.name}}, "by the same split on the same data"


def test_who_taught_the_start_of_a_view_does_not_judge_the_other(
    tiny_acdc: Path, trained: Trained, tmp_path: Path
) -> None:
    """Though this training itself never saw them."""
    other = tmp_path / "hospital"
    write_phantom(other, 5, 3, views=("SA",), size=(64, 64), spacing=(4.4, 4.4))
    judged = trained[1]["views"]["SA"]["training"]["split"]["train"][:1]
    out = write_tiny_bundle(tmp_path / "la", views=("LA",), split={"train": [], "validation": [], "test": judged})
    with pytest.raises(RVQCError, match=f"{judged[0]} would be in the train part of SA and validate or test LA"):
        train_bundle(other, out, TINY, start=trained[0], device="cpu")


def test_what_a_training_cannot_begin_from(tiny_acdc: Path, trained: Trained, tmp_path: Path) -> None:
    first = trained[0]
    with pytest.raises(RVQCError, match="give --from, or epochs"):
        train_bundle(tiny_acdc, tmp_path / "a", replace(TINY, qc_epochs=0), device="cpu")
    with pytest.raises(RVQCError, match=r"were trained on \w+, which is to validate or test"):
        train_bundle(tiny_acdc, tmp_path / "b", replace(TINY, seed=3), start=first, device="cpu")
    with pytest.raises(RVQCError, match=r"no BN1 of run segmenter1 with the parameters .*--width"):
        train_bundle(tiny_acdc, tmp_path / "c", replace(TINY, width=8), start=first, device="cpu")
    with pytest.raises(RVQCError, match="no LA networks to begin from"):
        train_bundle(tiny_acdc, tmp_path / "d", replace(TINY, view="LA"), start=first, device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_open_files")
def test_runs_side_by_side_and_without_the_test_part_make_the_same_bundle(
    tiny_acdc: Path, trained: Trained, tmp_path: Path
) -> None:
    """Two processes; and the files of the test part have headers that can be read and pixels that cannot."""
    _, description, _ = trained
    test = description["views"]["SA"]["training"]["split"]["test"]
    data, events = tmp_path / "data", []
    for file in tiny_acdc.glob("*/*"):
        copy = data / file.relative_to(tiny_acdc)
        copy.parent.mkdir(parents=True, exist_ok=True)
        spoiled = file.parent.name in test and file.suffix == ".gz"
        copy.write_bytes(file.read_bytes()[: -200 if spoiled else None])
    again = train_bundle(data, tmp_path / "bundle", TINY, device="cpu", jobs=2, report=events.append)
    assert weights(again) == weights(description) and again["name"] == "bundle"
    assert sorted((e["run"], e["epoch"]) for e in events if "epoch" in e) == sorted(
        (r, k) for r in RUNS for k in (1, 2)
    )


def test_the_work_of_another_configuration_is_refused(trained: Trained, tiny_acdc: Path, tmp_path: Path) -> None:
    out, _, _ = trained
    other = TrainingConfig(**{**vars(TINY), "seed": 1})
    work = out.parent / "bundle.training"
    with pytest.raises(RVQCError, match=f"{work} holds the training of another configuration.*--work"):
        train_bundle(tiny_acdc, tmp_path / "new", other, device="cpu", work=work)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--m-best", "0"), "not m_best 0, width 16"),
        (("--width", "-4"), "width -4"),
        (("--learning-rate", "0"), "learning rate 0."),
        (("--qc-epochs", "-1"), "-1 of the QC module"),
        (("--set", "BN3.width=4"), "--set BN3.width=4 is of no network here; these are BN1, BN2, AE."),
        (
            ("--set", "AE.latent=no"),
            "The network 'AE' cannot be built with {'latent': 'no'} (latent is 'no', give a whole",
        ),
        (("--set", "BN1.stages=99"), "(stages is 99, give a whole number from 2 to 8); check its parameters."),
        (("--set", "BN1.stages=0"), "(stages is 0, give a whole number from 2 to 8)"),
        (("--set", "BN2.stages=true"), "(stages is True, give a whole number from 2 to 8)"),
        (("--set", "BN1.width=-3"), "(width is -3, give a whole number from 1 to 256)"),
        (("--width", "100000"), "(width is 100000, give a whole number from 1 to 256)"),
        (
            ("--set", "BN2.width=100", "BN2.stages=8"),
            "(width is 100 and stages 8, 12800 channels at the coarsest, give",
        ),
        (("--set", "BN2.dropout=NaN"), "(dropout is nan, give a number from 0 to below 1)"),
        (("--set", "BN1.norm=layer"), "(norm is 'layer', give batch or instance)"),
        (
            ("--set", "BN1.stages=8"),
            "'BN1' makes no logits of 4 classes of 128 x 128 pixels (Expected more than 1 spatial",
        ),
        (
            ("--size", "96", "--set", "BN2.stages=7"),
            "choose other parameters, such as fewer stages, or another --size.",
        ),
        (("--set", "BN1.classes=5"), "(they have the shape (1, 5, 128, 128), not (1, 4, 128, 128))"),
    ],
)
def test_settings_that_no_training_can_have_are_refused_before_the_work(
    options: tuple, said: str, tiny_acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tiny_acdc), "--out", str(tmp_path / "bundle"), "--device", "cpu", *options]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_training_that_an_older_rvqc_began_goes_on(
    tiny_acdc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "do_all", stop)
    with pytest.raises(KeyboardInterrupt):
        train_bundle(tiny_acdc, tmp_path / "bundle", TINY, device="cpu")
    mark = tmp_path / "bundle.training" / "training.json"
    whole = json.loads(mark.read_text(encoding="utf-8"))
    for lacking, raised in (({"consensus", "continuation"}, KeyboardInterrupt), ({"consensus", "epochs"}, RVQCError)):
        config = {key: value for key, value in whole["config"].items() if key not in lacking}
        mark.write_text(json.dumps({**whole, "config": config}), encoding="utf-8")
        with pytest.raises(raised):
            train_bundle(tiny_acdc, tmp_path / "bundle", TINY, device="cpu")


def test_a_training_needs_a_process(tiny_acdc: Path, tmp_path: Path) -> None:
    with pytest.raises(RVQCError, match=r"0 processes cannot train; give 1 or more."):
        train_bundle(tiny_acdc, tmp_path / "bundle", TINY, device="cpu", jobs=0)


def test_what_is_no_bundle_is_not_replaced_and_that_is_said_before_the_work(tiny_acdc: Path, tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    with pytest.raises(BundleError, match="is no bundle, so it is not replaced"):
        train_bundle(tiny_acdc, out, TINY, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["home"] and (out / "thesis.txt").exists()


def test_too_few_studies_are_refused(tiny_acdc: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "patient001").symlink_to(tiny_acdc / "patient001")
    with pytest.raises(RVQCError, match=f"{data} has 1 studies, too few"):
        train_bundle(data, tmp_path / "bundle", TINY, device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_view_without_labels_is_refused(tiny_acdc: Path, tmp_path: Path) -> None:
    config = TrainingConfig(**{**vars(TINY), "view": "LA"})
    with pytest.raises(RVQCError, match="labelled LA stack; check the folder and --view"):
        train_bundle(tiny_acdc, tmp_path / "bundle", config, device="cpu")
    assert not (tmp_path / "bundle").exists()
    # Nothing was learnt, so the work folder does not refuse the corrected command.
    assert not (tmp_path / "bundle.training" / "training.json").exists()


def test_a_foreign_network_is_trained_only_when_it_is_allowed(tiny_acdc: Path, tmp_path: Path) -> None:
    config = TrainingConfig(
        **{**vars(TINY), "networks": ("torch.nn:Conv2d",), "epochs": 1, "qc_epochs": 1, "locator_epochs": 1},
    )
    config.parameters["torch.nn:Conv2d"] = {"in_channels": 1, "out_channels": 4, "kernel_size": 1}
    with pytest.raises(RVQCError, match="allow it by name"):
        train_bundle(tiny_acdc, tmp_path / "bundle", config, device="cpu")
    train_bundle(tiny_acdc, tmp_path / "bundle", config, device="cpu", allow=["torch.nn:Conv2d"])
    with pytest.raises(BundleError, match="allow it by name"):
        load_bundle(tmp_path / "bundle").models("SA", "cpu")
    models = load_bundle(tmp_path / "bundle", allow=["torch.nn:Conv2d"]).models("SA", "cpu")
    assert models.names == ("torch.nn:Conv2d",)


def test_auto_precision_is_decided_and_recorded(
    tiny_acdc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def stop(jobs: list, *_: Any) -> None:
        seen.extend(job.run.precision for job in jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "native_precision", lambda device: "bfloat16")
    monkeypatch.setattr(training, "do_all", stop)
    config = TrainingConfig(**{**vars(TINY), "precision": "auto"})
    with pytest.raises(KeyboardInterrupt):
        train_bundle(tiny_acdc, tmp_path / "bundle", config, device="cpu")
    assert seen == ["bfloat16"] * 4
    mark = json.loads((tmp_path / "bundle.training" / "training.json").read_text())
    assert mark["config"]["precision"] == "bfloat16"


def test_the_shipped_bundle_was_made_by_this_recipe(acdc: Path) -> None:
    try:
        description = load_bundle(shipped_bundle()).description
    except BundleError as error:
        pytest.skip(f"there is no shipped bundle to look into: {error}")
    recorded = description["views"]["SA"]["training"]
    config = recorded["config"]
    expected = split(find_studies(acdc), seed=config["seed"], validation=config["validation"], test=config["test"])
    assert recorded["split"] == expected


def test_a_second_view_is_put_beside_the_first(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "both"
    shutil.copytree(trained[0], out)
    write_phantom(tmp_path / "la", 5, 3, views=("LA",), diseases=("NOR",), size=(64, 64), spacing=(4.4, 4.4))
    config = replace(TINY, view="LA", epochs=1, qc_epochs=1, locator_epochs=1, networks=("BN1",))
    terms = Terms(license="CC0", caution="synthetic only")
    told = train_bundle(tmp_path / "la", out, config, device="cpu", terms=terms)
    bundle = load_bundle(out)
    assert told == bundle.description and bundle.views == ("SA", "LA") and bundle.name == "tiny"
    for file in (trained[0] / "SA").iterdir():
        assert (out / "SA" / file.name).read_bytes() == file.read_bytes()
    assert bundle.description["views"]["SA"]["calibration"] == trained[1]["views"]["SA"]["calibration"]
    result = segment_study(phantom_study(1, size=(64, 64), spacing=(4.4, 4.4, 10.0)), bundle, device="cpu")
    assert {stack.image.view for stack in result.stacks} == {"SA", "LA"}
    assert "LA: synthetic only" in result.checks


def test_a_study_that_trains_one_view_judges_no_other(trained: Trained, tiny_acdc: Path, tmp_path: Path) -> None:
    out, work = tmp_path / "both", tmp_path / "work"
    shutil.copytree(trained[0], out)
    for config in (replace(TINY, view="LA", seed=3), replace(TINY, view="LA", test=0.0)):
        with pytest.raises(
            RVQCError, match=f"in the train part of .. and validate or test .. in {out}; use the --seed"
        ):
            train_bundle(tiny_acdc, out, config, device="cpu", work=work)
        assert not work.exists()
    with pytest.raises(RVQCError, match="has a labelled LA stack"):  # by the same split it would go on
        train_bundle(tiny_acdc, out, replace(TINY, view="LA"), device="cpu", work=work)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_neither_view_may_judge_by_who_trained_the_other(tmp_path: Path, part: str) -> None:
    ours, theirs = {"train": ["a"], "validation": ["b"], "test": []}, {"train": ["c"], "validation": [], "test": []}
    out = write_tiny_bundle(tmp_path / "sa", views=("SA",), split={**theirs, part: ["b"]})
    training._check_beside(out, "LA", ours)
    training._check_beside(out, "SA", {**ours, "train": ["b"]})  # which would take the place of what is there
    with pytest.raises(RVQCError, match="b would be in the train part of LA and validate or test SA"):
        training._check_beside(out, "LA", {"train": ["b"], "validation": [], "test": []})
    with pytest.raises(RVQCError, match="c would be in the train part of SA and validate or test LA"):
        training._check_beside(out, "LA", {"train": [], "validation": [], "test": [], part: ["c"]})


def test_more_studies_are_learnt_from_and_judge_nothing(trained: Trained, tiny_acdc: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "both", []
    shutil.copytree(trained[0], out)
    write_phantom(tmp_path / "la", 5, 3, views=("LA",), diseases=("NOR",), size=(64, 64), spacing=(4.4, 4.4))
    config = replace(TINY, view="LA", epochs=1, qc_epochs=1, locator_epochs=1, networks=("BN1",))
    train_bundle(tmp_path / "la", out, config, more=[tiny_acdc], device="cpu", report=told.append)
    views = load_bundle(out).description["views"]
    short, long = (views[view]["training"] for view in ("SA", "LA"))
    assert long["more"] == [tiny_acdc.name] and "more" not in short
    further = {name for name in long["split"]["train"] if name.startswith("patient")}
    assert further == set(short["split"]["train"]), "the other view keeps the rest to validate and test"
    assert not any(name.startswith("patient") for part in ("validation", "test") for name in long["split"][part])
    assert any("4 of 10 further studies are kept" in event.get("message", "") for event in told)
    assert views["LA"]["calibration"]["n_studies"] == len(long["split"]["validation"])
    with pytest.raises(RVQCError, match="no labelled study to learn from"):
        train_bundle(tiny_acdc, tmp_path / "other", TINY, more=[_only(tiny_acdc, short["split"]["test"], tmp_path)])


def test_who_is_kept_from_one_view_may_calibrate_another(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "both"
    join_bundles(trained[0], write_tiny_bundle(tmp_path / "la", views=("LA",)), out)
    kept = trained[1]["views"]["SA"]["training"]["split"]["validation"]
    for name in (*kept, "patient999"):
        write_phantom(tmp_path / "one", 1, 3, views=("LA",), size=(64, 64), spacing=(4.4, 4.4))
        (source,) = find_studies(tmp_path / "one")
        _named(tmp_path / "one" / source.name, tmp_path / "data" / name)
    found = calibrate_bundle(out, tmp_path / "data", views=["LA"], device="cpu")
    assert found["LA"]["n_studies"] == len(kept)


def _named(folder: Path, home: Path) -> None:
    """The study of the folder under another name."""
    home.mkdir(parents=True)
    for file in folder.iterdir():
        file.rename(home / file.name.replace(folder.name, home.name))


def _only(data: Path, names: list[str], folder: Path) -> Path:
    for name in names:
        shutil.copytree(data / name, folder / "few" / name)
    return folder / "few"


def test_masks_of_another_view_do_not_teach_r(tiny_acdc: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "la", 2, 3, views=("LA",), size=(64, 64), spacing=(4.4, 4.4))
    further = (*find_studies(tiny_acdc), *find_studies(tmp_path / "la"))
    config = replace(TINY, view="LA")
    seen = {name: more_examples(run, further, config) for name, run in config.runs().items()}
    assert {name: len(examples) for name, examples in seen.items()} == {
        "segmenter1": 24,
        "segmenter2": 24,
        "locator": 24,
        "qc": 4,
    }
    assert more_examples(config.runs()["qc"], find_studies(tiny_acdc), config) == []
    assert seen["segmenter1"][0].images.shape[-1] == config.source_size


def test_calibrating_leaves_views_that_the_data_lack(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "both"
    shutil.copytree(trained[0], out)
    la = write_tiny_bundle(tmp_path / "la", views=("LA",))
    join_bundles(out, la, out)
    write_phantom(tmp_path / "data", 4, 3, views=("LA",), size=(64, 64), spacing=(4.4, 4.4))
    assert set(calibrate_bundle(out, tmp_path / "data", part="all", device="cpu")) == {"LA"}
    views = load_bundle(out).description["views"]
    assert views["LA"]["calibration"]["n_studies"] == 4
    assert views["SA"]["calibration"] == trained[1]["views"]["SA"]["calibration"]


def test_a_group_left_out_is_only_tested(tiny_acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    config = replace(TINY, epochs=1, qc_epochs=1, locator_epochs=1, networks=("BN1",), leave_out=("DCM",))
    told = train_bundle(tiny_acdc, out, config, device="cpu")["views"]["SA"]
    dcm = {source.name for source in find_studies(tiny_acdc) if source.group == "DCM"}
    parts = told["training"]["split"]
    assert dcm <= set(parts["test"]) and len(parts["test"]) == len(dcm) + 1
    assert told["training"]["config"]["leave_out"] == ["DCM"] and told["calibration"]["n_studies"] == 1
    arguments = ["evaluate", str(tiny_acdc), "--bundle", str(out), "--split", "test", "--device", "cpu"]
    assert main([*arguments, "-o", str(tmp_path / "evaluation")]) == 0
    summary = json.loads((tmp_path / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert summary["unseen_groups"] == ["DCM"] and summary["groups"]["group DCM"]["n_stacks"] == 10
    assert "DCM, never trained on: RV Dice" in capsys.readouterr().out


def test_a_configuration_that_leaves_nobody_out_is_recorded_as_before() -> None:
    assert "leave_out" not in TINY.to_json() and replace(TINY, leave_out=("RV",)).to_json()["leave_out"] == ["RV"]


def test_who_validates_is_not_learnt_from(tiny_acdc: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def stop(jobs: list, *_: Any) -> None:
        seen.extend(jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "do_all", stop)
    with pytest.raises(KeyboardInterrupt):
        train_bundle(tiny_acdc, tmp_path / "bundle", TINY, device="cpu")
    parts = json.loads((tmp_path / "bundle.training" / "training.json").read_text(encoding="utf-8"))["split"]
    assert [job.name for job in seen] == RUNS
    for job in seen:
        assert [source.name for source in job.train] == parts["train"]
        assert [source.name for source in job.validation] == parts["validation"]
