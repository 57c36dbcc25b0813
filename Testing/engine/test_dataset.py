"""Training examples and the split that keeps patients apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from RVQCLib.dataset import fingerprint_of, load_examples, not_new, select_part, split, training_crop, unseen_groups
from RVQCLib.files import RVQCError
from RVQCLib.slices import Sampling, locator_crop
from RVQCLib.study import Study, StudySource, find_studies

SAMPLING = Sampling(spacing_mm=4.0, size=32, locator_spacing_mm=6.0, locator_size=48)


def sources(**groups: int) -> list[StudySource]:
    return [StudySource(f"{group}{k:03d}", group=group) for group, n in groups.items() for k in range(n)]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    seed=st.integers(0, 9),
    validation=st.floats(0.05, 0.4),
    test=st.floats(0, 0.4),
)
def test_the_split_is_whole_disjoint_stratified_and_stable(
    sizes: list, seed: int, validation: float, test: float
) -> None:
    studies = sources(**{f"G{k}": n for k, n in enumerate(sizes)})
    parts = split(studies, seed=seed, validation=validation, test=test)
    assert sorted(name for names in parts.values() for name in names) == sorted(s.name for s in studies)
    for part, share in (("validation", validation), ("test", test)):
        counts = [sum(name.startswith(f"G{k}") for name in parts[part]) for k in range(len(sizes))]
        rounded = [round(share * n) for n in sizes]
        if any(rounded) or sum(sizes) < 5 or not share:
            assert counts == rounded
        else:  # too few in every group: the share of all, and from different groups
            assert 1 <= sum(counts) <= max(1, round(share * sum(sizes))) and max(counts) == 1
    assert sum(sizes) < 5 or validation + test > 0.5 or parts["train"]
    assert split(studies[::-1], seed=seed, validation=validation, test=test) == parts


@pytest.mark.parametrize(
    ("groups", "test", "expected"),
    [
        ({"A": 1, "B": 1, "C": 1, "D": 1}, 0.2, (4, 0, 0)),
        ({"A": 1, "B": 1, "C": 1, "D": 1, "E": 1}, 0.2, (3, 1, 1)),
        ({"A": 1, "B": 1, "C": 1, "D": 1, "E": 1}, 0.0, (4, 1, 0)),
        ({"A": 2, "B": 2, "C": 2, "D": 2, "E": 2}, 0.2, (6, 2, 2)),
        ({"A": 2, "B": 2, "C": 1}, 0.2, (3, 1, 1)),
    ],
)
def test_few_studies_of_many_groups_are_split_too(groups: dict, test: float, expected: tuple) -> None:
    for seed in range(8):
        parts = split(sources(**groups), seed=seed, validation=0.2, test=test)
        assert tuple(map(len, parts.values())) == expected
        assert len({name[0] for name in parts["validation"] + parts["test"]}) == sum(expected[1:])  # a group gives once


def test_of_few_studies_the_largest_groups_give_first_and_the_seed_decides_among_equals() -> None:
    parts = [split(sources(A=2, B=2, C=1), seed=seed, validation=0.2, test=0.2) for seed in range(9)]
    assert all("C000" in one["train"] for one in parts)
    assert {one["validation"][0] for one in parts} == {"A000", "A001", "B000", "B001"}


def test_a_part_without_a_share_stays_empty() -> None:
    parts = split(sources(A=1, B=1, C=1, D=1, E=1), seed=0, validation=0.0, test=0.2)
    assert (len(parts["train"]), parts["validation"], len(parts["test"])) == (4, [], 1)


def test_another_seed_is_another_split() -> None:
    studies = sources(NOR=20, DCM=20)
    one, two = (split(studies, seed=seed, validation=0.2, test=0.2) for seed in (0, 1))
    assert one != two and [len(one[p]) for p in one] == [len(two[p]) for p in two] == [24, 8, 8]


def test_a_new_patient_moves_nobody_of_another_group() -> None:
    before = split(sources(NOR=10, DCM=10), seed=0, validation=0.2, test=0.2)
    after = split(sources(NOR=10, DCM=15), seed=0, validation=0.2, test=0.2)
    for part in before:
        assert [n for n in before[part] if n.startswith("NOR")] == [n for n in after[part] if n.startswith("NOR")]


def test_a_group_left_out_is_for_the_test_whole_and_moves_nobody_else() -> None:
    studies = sources(NOR=10, RV=6, TRI=5)
    whole = split(studies, seed=0, validation=0.2, test=0.2)
    parts = split(studies, seed=0, validation=0.2, test=0.2, leave_out=("RV", "TRI003"))
    assert {n for n in parts["test"] if n.startswith("RV")} == {f"RV{k:03d}" for k in range(6)}
    assert "TRI003" in parts["test"] and not [n for n in parts["train"] + parts["validation"] if n.startswith("RV")]
    for part in whole:
        assert [n for n in whole[part] if n.startswith("NOR")] == [n for n in parts[part] if n.startswith("NOR")]
    assert sorted(n for names in parts.values() for n in names) == sorted(s.name for s in studies)


def test_a_group_that_does_not_exist_cannot_be_left_out() -> None:
    with pytest.raises(RVQCError, match=r"None of the 6 studies is 'DRV' or of that group.*the groups are NOR, RV\."):
        split(sources(NOR=3, RV=3), seed=0, validation=0.2, test=0.2, leave_out=("DRV",))


def test_unseen_groups_are_those_without_a_study_that_taught_or_chose() -> None:
    studies = sources(NOR=2, HCM=2, RV=1, TRI=1)
    views = {
        "SA": {"training": {"split": {"train": ["NOR000"], "validation": ["HCM000"], "test": ["RV000"]}}},
        "LA": {"training": {"split": {"train": ["TRI000"]}}},
    }
    assert unseen_groups(studies, {"SA": views["SA"]}) == ["RV", "TRI"]
    assert unseen_groups(studies, views) == ["RV"]
    assert unseen_groups(studies, {}) == [] and unseen_groups(studies[4:], {"SA": views["SA"]}) == []


def test_studies_that_are_not_new_to_the_networks_are_named() -> None:
    studies = [replace(source, labels={("SA", "ED"): Path("gt")}) for source in sources(P=10)]
    names = [source.name for source in studies]
    parts = {"train": names[:5], "validation": names[5:7], "test": names[8:]}
    calibration = {"studies": [names[0], names[6], names[7]]}
    views = [{"training": {"split": parts}, "calibration": calibration}, {"calibration": None}]
    found = not_new(studies, studies, views)
    assert (found["taught"], found["chose"]) == (names[:5], names[5:8])
    assert found["said"] == (
        "5 of 10 studies taught these networks, 3 chose or calibrated them; use --split test for an honest number"
    )
    assert not_new(studies[8:], studies, views) == {"taught": [], "chose": [], "said": ""}
    assert not_new([replace(one, labels={}) for one in studies], studies, views)["said"] == "", "they are not judged"
    calibration["studies"] = names[8:]
    found = not_new(studies[8:], studies, views)
    assert found["said"] == "2 of 2 studies chose or calibrated these networks; give others for an honest number"
    later = [{**views[0], "segmenters": [], "refined": {"segmenters": [], "calibration": {"studies": names[7:8]}}}]
    assert not_new(studies, studies, later)["chose"] == names[5:]


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (5, (3, 1, 1))])
def test_a_small_group_gives_to_training_first(n: int, expected: tuple) -> None:
    parts = split(sources(HCM=n), seed=0, validation=0.2, test=0.2)
    assert tuple(len(parts[part]) for part in ("train", "validation", "test")) == expected


def test_acdc_is_split_20_by_group(acdc: Path) -> None:
    parts = split(find_studies(acdc), seed=0, validation=0.2, test=0.2)
    group = {source.name: source.group for source in find_studies(acdc)}
    for part, each in (("train", 12), ("validation", 4), ("test", 4)):
        counts = {g: sum(group[name] == g for name in parts[part]) for g in set(group.values())}
        assert counts == dict.fromkeys(("NOR", "MINF", "DCM", "HCM", "RV"), each)


def test_examples_hold_the_whole_heart_in_the_middle(tiny_acdc: Path) -> None:
    found = find_studies(tiny_acdc)
    examples = load_examples(found, "SA", lambda image, mask: training_crop(image, mask, SAMPLING, 32), SAMPLING)
    assert len(examples) == 20
    assert [e.name for e in examples[:2]] == ["SA_ED", "SA_ES"] and {e.group for e in examples} == {"NOR", "DCM"}
    for example in examples:
        assert example.images.shape == example.labels.shape == (3, 32, 32)
        assert (example.images.dtype, example.labels.dtype) == (np.float16, np.uint8)
        assert example.images.min() >= 0 and example.images.max() <= 1
        assert example.spacing_zyx == (9.0, 4.0, 4.0)
        rows, columns = np.nonzero(example.labels.any(axis=0))
        assert abs((rows.min() + rows.max()) / 2 - 15.5) <= 1 and abs((columns.min() + columns.max()) / 2 - 15.5) <= 1
        # Blood is brighter than muscle in these studies: images and labels lie on each other.
        assert example.images[example.labels == 1].mean() > example.images[example.labels == 2].mean() + 0.4


def test_examples_can_show_the_whole_field(tiny_acdc: Path) -> None:
    examples = load_examples(find_studies(tiny_acdc), "SA", lambda image, _: locator_crop(image, SAMPLING), SAMPLING)
    assert examples[0].images.shape == (3, 48, 48) and examples[0].spacing_zyx == (9.0, 6.0, 6.0)
    whole = [s.load(labels=True).labels[0].pixels for s in find_studies(tiny_acdc)]
    for example, labels in zip(examples[::2], whole, strict=True):
        assert (example.labels > 0).sum() * 36 == pytest.approx((labels > 0).sum() * 16, rel=0.1)


def test_no_labelled_stack_of_the_view_is_refused(tiny_acdc: Path) -> None:
    with pytest.raises(RVQCError, match="labelled LA stack; check the folder and --view"):
        load_examples(find_studies(tiny_acdc), "LA", lambda image, _: locator_crop(image, SAMPLING), SAMPLING)


def test_parts_are_those_that_the_bundle_records() -> None:
    studies = sources(NOR=3)
    views = {
        "SA": {"training": {"split": {"train": ["NOR000"], "test": ["NOR001"]}}},
        "LA": {"training": {"split": {"test": ["NOR002", "elsewhere"]}}},
    }
    assert [s.name for s in select_part(studies, views, "test")] == ["NOR001", "NOR002"]
    assert [s.name for s in select_part(studies, views, "train")] == ["NOR000"]
    assert select_part(studies, views, "all") == studies and select_part(studies, {}, "all") == studies
    for nothing in ({}, {"SA": {}}, views):
        with pytest.raises(RVQCError, match=r"validation part.*--split all"):
            select_part(studies, nothing, "validation")


def test_the_fingerprint_is_that_of_the_data(make_study: Callable[..., Study]) -> None:
    study = make_study("a", 1)
    pairs = [("a", image, truth) for image, truth in zip(study.stacks, study.labels, strict=True)]
    assert fingerprint_of(pairs) == fingerprint_of(reversed(pairs))
    _, image, truth = pairs[0]
    brighter, mislabelled = image.pixels.copy(), truth.pixels.copy()
    brighter[0, 0, 0] += 1
    mislabelled[2, 7, 7] = 3
    changed = [
        ("a", image.with_pixels(brighter), truth),
        ("a", image, truth.with_pixels(mislabelled)),
        ("b", image, truth),
        ("a", replace(image, phase="ES"), truth),
    ]
    assert len({fingerprint_of([other, *pairs[1:]]) for other in [pairs[0], *changed]}) == 5
