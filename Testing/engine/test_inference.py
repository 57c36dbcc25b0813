"""The forward passes of M and R over a stack, and the choice among the candidates."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import true_masks
from torch import Tensor, nn

from RVQCLib import inference, phases
from RVQCLib.bundle import ViewModels, load_bundle
from RVQCLib.files import RVQCError
from RVQCLib.inference import Proposal, choose, choose_device, hard_masks, propose, propose_stack, reconstruct
from RVQCLib.phases import find_phases
from RVQCLib.quality import Fences, measure
from RVQCLib.slices import Crop, Sampling, center_crop, find_heart, to_network
from RVQCLib.stack import LABELS
from RVQCLib.study import Geometry, Stack, Study, find_studies


class Turn(nn.Module):
    """A QC module that gives back its mask turned upside down, and never an empty one."""

    def forward(self, mask: Tensor) -> Tensor:
        turned = 10 * mask.flip(2)
        turned[:, 1, 0, 0] = 20
        return turned


class Same(nn.Module):
    """A QC module that believes everything."""

    def forward(self, mask: Tensor) -> Tensor:
        return 10 * mask


def models(*segmenters: nn.Module, qc: nn.Module) -> ViewModels:
    names = tuple("BN1" for _ in segmenters)
    return ViewModels(Sampling(size=16), nn.Identity(), segmenters, names, qc, None, "cpu")


def one_hot(masks: np.ndarray) -> np.ndarray:
    return np.stack([masks == k for k in range(4)], axis=1).astype(np.float32)


def test_auto_takes_a_device_that_computes_and_an_absent_one_is_refused() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cuda", "mps", "cpu")
    absent = [d for d, there in (("cuda", torch.cuda.is_available()), ("mps", torch.mps.is_available())) if not there]
    for name in [*absent, "tpu9", "cuda:99"]:
        with pytest.raises(RVQCError, match=f"{name}.*does not work here.*--device auto or cpu") as caught:
            choose_device(name)
        assert "\n" not in str(caught.value)


def test_a_device_that_is_listed_but_cannot_compute_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(device: str) -> None:
        if device != "cpu":
            raise RuntimeError("no kernel image is available. Only\nfor these cards: 1, 2, 3")

    monkeypatch.setattr(inference, "_try_kernel", kernel)
    assert choose_device("auto") == "cpu"
    with pytest.raises(RVQCError, match=r"'mps' does not work here \(no kernel image is available\); use --device"):
        choose_device("mps")


def test_candidates_give_probabilities_in_slice_order_whatever_the_batch(tiny_bundle: Path) -> None:
    """More slices than a batch holds, one result a slice: as if every slice had come alone."""
    tiny = load_bundle(tiny_bundle).models("SA", "cpu")
    images = np.random.default_rng(0).random((inference.BATCH + 3, 1, 32, 32)).astype(np.float32)
    all_ = propose(images, tiny)
    assert all_.shape == (3, len(images), 4, 32, 32) and all_.dtype == np.float32
    np.testing.assert_allclose(all_.sum(axis=2), 1, atol=1e-5)
    for k in (0, 7, len(images) - 1):
        np.testing.assert_allclose(propose(images[k : k + 1], tiny)[:, 0], all_[:, k], atol=1e-5)
    assert np.array_equal(propose(images, tiny), all_)


def test_the_mean_of_the_segmenters_is_the_last_candidate_where_the_bundle_says_so(tiny_bundle: Path) -> None:
    tiny = load_bundle(tiny_bundle).models("SA", "cpu")
    images = np.random.default_rng(1).random((2, 1, 32, 32)).astype(np.float32)
    plain, more = propose(images, tiny), propose(images, replace(tiny, consensus=True))
    assert more.shape[0] == 4 and more.dtype == np.float32
    np.testing.assert_array_equal(more[:3], plain)
    np.testing.assert_allclose(more[3], plain.mean(axis=0), atol=1e-6)


def test_reconstructions_keep_their_shape_and_empty_slices() -> None:
    masks = np.zeros((2, 3, 16, 16), np.uint8)
    masks[0, 1, 2:5, 3:9] = 3
    masks[1, 2, 8:, 4] = 2
    again = reconstruct(masks, models(qc=Turn()))
    expected = masks[:, :, ::-1].copy()
    expected[0, 1, 0, 0] = expected[1, 2, 0, 0] = 1  # what Turn adds to a slice that it is shown
    np.testing.assert_array_equal(again, expected)
    assert again.dtype == np.uint8
    assert not reconstruct(np.zeros((2, 16, 16), np.uint8), models(qc=Turn())).any()


def test_islands_go_and_the_largest_piece_of_the_stack_stays() -> None:
    labels = np.zeros((3, 12, 12), np.uint8)
    labels[0, 2:5, 2:5] = 3  # 9 pixels, and with the next slice, which it touches at a corner, 25
    labels[1, 5:9, 5:9] = 3
    labels[2, 0, 0:12] = 3  # 12 pixels: an island, though larger than what slice 0 shows
    labels[2, 6:8, 6:8] = 1  # the only LV
    probabilities = one_hot(labels)
    before = probabilities.copy()
    masks, cleaned = hard_masks(probabilities)
    expected = labels.copy()
    expected[2, 0] = 0
    np.testing.assert_array_equal(masks, expected)
    np.testing.assert_array_equal(probabilities, before)
    assert not cleaned[2, 3, 0].any() and np.array_equal(cleaned[:2], before[:2])
    np.testing.assert_array_equal(cleaned[:, 1], before[:, 1])


def rv_of(*areas: int) -> np.ndarray:
    """A stack of labels whose RV has these areas in pixels, every slice's over the next one's."""
    labels = np.zeros((len(areas), 12, 12), np.uint8)
    for plane, area in zip(labels, areas, strict=True):
        plane.reshape(-1)[:area] = 3
    return labels


@pytest.mark.parametrize(
    ("areas", "kept"),
    [
        ((90, 80, 60, 30, 10), (90, 80, 60, 30, 10)),
        ((90, 80, 60, 30, 50, 20), (90, 80, 60, 30, 0, 0)),  # larger again toward the apex
        ((20, 50, 30, 60, 80, 90), (0, 0, 30, 60, 80, 90)),  # the same, counted from the other end
        ((90, 80, 60, 40, 60, 20), (90, 80, 60, 40, 60, 20)),  # by half is borne
        ((40, 10, 100, 70), (0, 10, 100, 70)),
        ((60, 20, 10, 50, 45, 40), (60, 20, 10, 50, 45, 40)),  # which part is the RV is not known
        ((80,), (80,)),
    ],
)
def test_the_rv_ends_where_it_grows_again(areas: tuple[int, ...], kept: tuple[int, ...]) -> None:
    labels, probabilities = rv_of(*areas), one_hot(rv_of(*areas))
    masks, cleaned = hard_masks(probabilities)
    np.testing.assert_array_equal(masks, rv_of(*kept))
    np.testing.assert_array_equal(cleaned[:, 3], probabilities[:, 3] * (rv_of(*kept) == 3))
    np.testing.assert_array_equal(probabilities, one_hot(labels))


def test_no_true_rv_is_cut(acdc: Path) -> None:
    truths = list(true_masks(find_studies(acdc)))
    assert len(truths) == 200
    assert not [truth.name for truth in truths if inference._beyond(truth.pixels == LABELS["RV"]).any()]


def test_without_islands_probabilities_pass_unchanged() -> None:
    empty = one_hot(np.zeros((2, 8, 8), np.uint8))
    masks, cleaned = hard_masks(empty)
    assert not masks.any() and cleaned is empty


def test_a_stack_is_proposed_on_the_networks_grid(tiny_bundle: Path, tiny_study: Study) -> None:
    tiny = load_bundle(tiny_bundle).models("LA", "cpu")
    stack = tiny_study.stack("LA", "ES")
    proposal = propose_stack(stack, tiny)
    assert proposal.masks.shape == proposal.reconstructions.shape == (3, 1, 32, 32)
    assert proposal.probabilities.shape == (3, 1, 4, 32, 32) and proposal.spacing_zyx == (9.0, 4.0, 4.0)
    assert proposal.crop == find_heart(stack, tiny.locator, tiny.sampling)
    np.testing.assert_array_equal(proposal.images, to_network(stack, proposal.crop, tiny.sampling)[:, 0])
    raw = propose(to_network(stack, proposal.crop, tiny.sampling), tiny)
    for found, probabilities in zip(proposal.masks, raw, strict=True):
        np.testing.assert_array_equal(found, hard_masks(probabilities)[0])
    np.testing.assert_array_equal(proposal.reconstructions, reconstruct(proposal.masks, tiny))
    assert proposal.measures.stack_pDC.shape == (3, 3)
    assert proposal.voters.shape == proposal.probabilities.shape


def test_the_mean_of_the_candidates_has_no_vote_of_its_own(tiny_bundle: Path, tiny_study: Study) -> None:
    """It is judged as a candidate, and their agreement is that of the segmenters alone."""
    tiny = load_bundle(tiny_bundle).models("SA", "cpu")
    stack = tiny_study.stack("SA", "ED")
    plain, more = propose_stack(stack, tiny), propose_stack(stack, replace(tiny, consensus=True))
    assert more.masks.shape[0] == 4 and more.measures.stack_pDC.shape == (4, 3)
    np.testing.assert_array_equal(more.voters, plain.probabilities)
    np.testing.assert_array_equal(more.measures.stack_agreement, plain.measures.stack_agreement)
    np.testing.assert_array_equal(more.measures.slice_agreement, plain.measures.slice_agreement)


def proposal_of(masks: np.ndarray, probabilities: np.ndarray, reconstructions: np.ndarray) -> Proposal:
    stack = Stack(np.zeros(masks.shape[1:], np.float32), Geometry(), "SA", "ED")
    spacing = (8.0, 1.5, 1.5)
    measures = measure(masks, reconstructions, spacing)
    crop = Crop((0, 0), 1.5, 16)
    return Proposal(
        stack, crop, stack.pixels, masks, probabilities, reconstructions, measures, spacing, n_voters=len(masks)
    )


def squares(*boxes: tuple[slice, slice]) -> np.ndarray:
    masks = np.zeros((len(boxes), 1, 16, 16), np.uint8)
    for mask, box in zip(masks, boxes, strict=True):
        mask[0][box] = 3
    return masks


def test_the_best_candidate_within_the_fence_is_chosen_as_it_is() -> None:
    """pDC 1 and pHD 0 of the second against its reconstruction, the first moved by two of its four rows."""
    masks = squares(np.s_[4:8, 4:8], np.s_[4:9, 4:8])
    again = masks.copy()
    again[0] = np.roll(masks[0], 2, axis=1)
    proposal = proposal_of(masks, np.stack([one_hot(m) for m in masks]), again)
    chosen = choose(proposal, Fences(0.5, 20.0, 10), models(qc=Same()))
    assert chosen.selection.indices == (1,)
    np.testing.assert_array_equal(chosen.mask, masks[1])
    np.testing.assert_array_equal(chosen.reconstruction, again[1])
    assert chosen.measures.stack_pDC.shape == (1, 3) and chosen.measures.stack_pDC[0, 0] == 1
    assert chosen.measures.stack_pHD[0, 0] == 0


def test_the_average_is_that_of_probabilities_and_is_reconstructed_anew() -> None:
    """Both pHD lie beyond the fence. The first has the best pDC (12 of 16 pixels with it, a far pixel 15 mm away), the
    second the best pHD; the mean of their probabilities is beyond one half where the surer of the two says RV."""
    masks = squares(np.s_[4:8, 4:8], np.s_[6:10, 4:8])
    probabilities = np.full((2, 1, 4, 16, 16), 0.0, np.float32)
    for k, sure in enumerate((0.6, 0.9)):
        probabilities[k, 0, 3] = np.where(masks[k, 0] == 3, sure, 0.0)
        probabilities[k, 0, 0] = 1 - probabilities[k, 0, 3]
    again = masks.copy()
    again[0, 0, 4, 4:8] = 0
    again[0, 0, 4, 15] = 3
    again[1] = np.roll(masks[1], 2, axis=2)
    proposal = proposal_of(masks, probabilities, again)
    pDC, pHD = proposal.measures.stack_pDC[:, 0], proposal.measures.stack_pHD[:, 0]
    assert pDC[0] == pytest.approx(24 / 29) and pDC[1] == pytest.approx(0.5)
    assert pHD == pytest.approx([1.5 * 8, 1.5 * 2])
    chosen = choose(proposal, Fences(0.0, 1.0, 10), models(qc=Same()))
    assert sorted(chosen.selection.indices) == [0, 1] and chosen.selection.rule == "average"
    # 0.3 where only the first sees RV, 0.45 where only the second does, 0.75 where both do.
    expected = np.zeros((1, 16, 16), np.uint8)
    expected[0, 6:8, 4:8] = 3
    np.testing.assert_array_equal(chosen.mask, expected)
    np.testing.assert_array_equal(chosen.reconstruction, expected)
    np.testing.assert_allclose(chosen.probabilities, probabilities.mean(axis=0))
    assert (chosen.measures.stack_pDC[0, 0], chosen.measures.stack_pHD[0, 0]) == (1, 0)


def test_another_primary_structure_may_choose_another_candidate() -> None:
    masks = squares(np.s_[4:8, 4:8], np.s_[4:8, 4:8])
    masks[:, 0, 10:14, 10:14] = 1
    again = masks.copy()
    again[0, 0, 4] = 0  # the first loses RV, the second LV
    again[1, 0, 10] = 0
    proposal = proposal_of(masks, np.stack([one_hot(m) for m in masks]), again)
    fences = Fences(0.1, math.inf, 10)
    picked = {p: choose(proposal, fences, models(qc=Same()), primary=p).selection.indices for p in ("RV", "LV")}
    assert picked == {"RV": (1,), "LV": (0,)}


@pytest.mark.parametrize(
    ("blood", "found"),
    [([2, 1], (0, 1)), ([1, 2], (1, 0)), ([2, 3, 1], (1, 2)), ([3, 9, 3, 5, 5, 5, 1, 1, 1, 5, 5, 5, 6, 7, 6], (13, 7))],
)
def test_ed_and_es_are_the_most_and_the_least_blood(
    monkeypatch: pytest.MonkeyPatch, blood: list[int], found: tuple[int, int]
) -> None:
    assert find_phases(*_cine_of(blood, monkeypatch)) == found


@pytest.mark.parametrize("blood", [[0, 0, 0], [3] * 20])
def test_a_cine_that_does_not_beat_is_asked_about(monkeypatch: pytest.MonkeyPatch, blood: list[int]) -> None:
    with pytest.raises(RVQCError, match=r"cannot be told apart in beat.nii; name the two frames"):
        find_phases(*_cine_of(blood, monkeypatch))


def _cine_of(blood: list[int], monkeypatch: pytest.MonkeyPatch) -> tuple[list[Stack], ViewModels]:
    """Frames in which a network finds so many pixels of blood."""
    size = 16
    frames = [Stack(np.full((1, size, size), value, np.float32), Geometry(), "SA", "", "beat.nii") for value in blood]
    monkeypatch.setattr(phases, "find_heart", lambda stack, _, sampling, **__: center_crop(stack, sampling))
    monkeypatch.setattr(phases, "to_network", lambda stack, *_: stack.pixels)

    def filled(image: np.ndarray, *_: object) -> np.ndarray:
        labels = np.zeros((1, size, size), np.uint8)
        labels[0, 0, : int(image[0, 0, 0])] = LABELS["RV"]
        return one_hot(labels)[None]

    monkeypatch.setattr(phases, "propose", filled)
    return frames, models(nn.Identity(), qc=Same())
