"""The networks: shapes, widths, what they are said to be, and the door for others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from RVQCLib.bundle import load_bundle, write_bundle
from RVQCLib.files import BundleError, RVQCError
from RVQCLib.networks import BN1, BN2, NETWORKS, Autoencoder, build

UNET = "monai.networks.nets:UNet"
UNET_PARAMETERS = {"spatial_dims": 2, "in_channels": 1, "out_channels": 4, "channels": [4, 8], "strides": [2]}


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "parameters", "inputs", "outputs", "size"),
    [
        ("BN1", {"width": 4}, 1, 4, 64),
        ("BN1", {"width": 4, "stages": 4, "classes": 2}, 1, 2, 24),
        ("BN1", {"width": 4, "stages": 3, "norm": "batch"}, 1, 4, 32),
        ("BN2", {"width": 4}, 1, 4, 64),
        ("BN2", {"width": 4, "stages": 3, "norm": "instance"}, 1, 4, 20),
        ("AE", {"width": 4, "latent": 3}, 4, 4, 64),
    ],
)
def test_shapes(name: str, parameters: dict, inputs: int, outputs: int, size: int) -> None:
    model = build(name, parameters).eval()
    with torch.inference_mode():
        result = model(torch.rand(2, inputs, size, 2 * size))
    assert result.shape == (2, outputs, size, 2 * size)
    assert result.isfinite().all()


def test_deep_supervision_gives_full_half_and_quarter_resolution() -> None:
    model, image = BN1(width=4).eval(), torch.rand(1, 1, 64, 64)
    levels = model.forward_deep(image)
    assert [tuple(level.shape) for level in levels] == [(1, 4, 64, 64), (1, 4, 32, 32), (1, 4, 16, 16)]
    assert torch.equal(levels[0], model(image))


def bn1_parameters(w: int) -> int:
    """Counted by hand for six stages of w, 2w, 4w, 8w, 16w, 16w channels and four classes."""
    convolutions = 9 * (1 * w + w * w)  # the first stage, then down with twice the channels, the last with as many
    convolutions += 9 * ((2 + 4) + (8 + 16) + (32 + 64) + (128 + 256) + (256 + 256)) * w * w
    up = 4 * (16 * 16 + 16 * 8 + 8 * 4 + 4 * 2 + 2 * 1) * w * w + (16 + 8 + 4 + 2 + 1) * w
    decoder = 9 * ((32 * 16 + 16 * 16) + (16 * 8 + 8 * 8) + (8 * 4 + 4 * 4) + (4 * 2 + 2 * 2) + (2 + 1)) * w * w
    norms = 2 * 2 * (1 + 2 + 4 + 8 + 16 + 16) * w + 2 * 2 * (16 + 8 + 4 + 2 + 1) * w
    heads = 4 * (1 + 2 + 4) * w + 3 * 4
    return convolutions + up + decoder + norms + heads


@pytest.mark.parametrize("width", [8, 32])
def test_bn1_has_the_parameters_counted_by_hand(width: int) -> None:
    assert parameters_of(BN1(width=width)) == bn1_parameters(width)


def test_bn1_is_monais_nnunet() -> None:
    """DynUNet with nnU-Net's kernels, strides and filters has as many parameters, and with the same weights the output."""
    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.DynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=4,
        kernel_size=[3] * 6,
        strides=[1] + [2] * 5,
        upsample_kernel_size=[2] * 5,
        filters=[32, 64, 128, 256, 512, 512],
        norm_name=("instance", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        deep_supervision=True,
        deep_supr_num=2,
        trans_bias=True,
    )
    ours = BN1(width=32)
    assert parameters_of(ours) == parameters_of(theirs)
    _copy_dynunet(theirs, ours)
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        expected, found = theirs.eval()(image), ours.eval()(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def _copy_dynunet(theirs: nn.Module, ours: BN1) -> None:
    """MONAI's blocks, in the order in which data flow through them, are ours; its upsamples start at the coarsest."""
    blocks = [theirs.input_block, *theirs.downsamples, theirs.bottleneck]
    pairs = list(zip(blocks, ours.encoder, strict=True))
    for block, up, decoder in zip(theirs.upsamples, reversed(ours.up), reversed(ours.decoder), strict=True):
        pairs += [(block.transp_conv, up), (block.conv_block, decoder)]
    pairs += zip([theirs.output_block, *theirs.deep_supervision_heads], ours.heads, strict=True)
    for source, target in pairs:
        # Registered in another order there (convolutions, then norms): match kind by kind.
        for kind in ((nn.Conv2d, nn.ConvTranspose2d), (nn.InstanceNorm2d,)):
            a, b = ([m for m in x.modules() if isinstance(m, kind)] for x in (source, target))
            for one, other in zip(a, b, strict=True):
                other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("name", ["BN1", "BN2"])
def test_width_scales_the_network(name: str) -> None:
    counts = [parameters_of(build(name, {"width": width, "stages": 4})) for width in (4, 8, 16)]
    assert 3.5 < counts[1] / counts[0] < counts[2] / counts[1] < 4


def test_the_light_networks_are_light_and_the_authors_own_are_the_defaults() -> None:
    assert parameters_of(BN1(width=16)) < parameters_of(BN1()) / 3.5
    assert BN1().encoder[0][0][0].out_channels == 32
    assert BN2().encoder[0][0][0].out_channels == 48


def test_dropout_of_bn2_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, image = BN2(width=4, stages=3, norm="instance"), torch.rand(1, 1, 32, 32)
    assert not torch.equal(model.train()(image), model(image))
    assert torch.equal(model.eval()(image), model(image))


def test_all_heads_of_bn2_speak() -> None:
    """The logits are the sum over three decoder stages, so every head gets a gradient."""
    model = BN2(width=4, stages=4)
    model(torch.rand(2, 1, 32, 32)).square().sum().backward()
    assert len(model.heads) == 3
    assert all(head.weight.grad.abs().sum() > 0 for head in model.heads)


def test_the_autoencoder_has_a_bottleneck_of_a_thirty_second() -> None:
    model = Autoencoder(width=4, latent=5).eval()
    assert model.encoder(torch.rand(1, 4, 128, 96)).shape == (1, 5, 4, 3)


def test_the_registry_holds_the_papers_networks() -> None:
    assert {"BN1": BN1, "BN2": BN2, "AE": Autoencoder} == NETWORKS


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("BN3", {}, "no network 'BN3'"),
        ("BN1", {"depth": 3}, "cannot be built with"),
        ("BN1", {"norm": "layer"}, "cannot be built with"),
        ("BN1", {"width": -4}, "cannot be built with"),
        ("BN1", {"width": "wide"}, "cannot be built with"),
        ("no.such.package:f", {}, "allow it by name"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(name: str, parameters: dict, words: str) -> None:
    with pytest.raises(RVQCError, match=words):
        build(name, parameters)


@pytest.mark.parametrize("name", ["no.such.package:f", "math:no_such", ":f", ".relative:f", "math:"])
def test_a_factory_that_is_not_there_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(RVQCError, match="cannot be imported"):
        build(name, {}, allow=[name])


def test_a_factory_must_make_a_network() -> None:
    with pytest.raises(RVQCError, match="makes a dict, no torch"):
        build("builtins:dict", {}, allow=["builtins:dict"])


def test_a_monai_network_enters_by_name() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    with pytest.raises(RVQCError, match=f"--allow {UNET}"):
        build(UNET, UNET_PARAMETERS)
    with pytest.raises(RVQCError, match="allow it by name"):
        build(UNET, UNET_PARAMETERS, allow=["monai.networks.nets:DynUNet", "monai.networks.nets"])
    model = build(UNET, UNET_PARAMETERS, allow=[UNET])
    assert isinstance(model, nets.UNet)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 4, 32, 32)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path that leaves a file when it is imported; returns that file's path."""
    trace = tmp_path / "it_was_imported"
    source = f"import pathlib, torch\npathlib.Path({str(trace)!r}).touch()\ndef make(width):\n"
    (tmp_path / "foreign_rvqc_networks.py").write_text(source + "    return torch.nn.Conv2d(1, 4, 3, padding=1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield trace
    sys.modules.pop("foreign_rvqc_networks", None)


def test_opening_a_bundle_never_imports_what_its_author_chose(foreign: Path, own_bundle: Path, tmp_path: Path) -> None:
    name = "foreign_rvqc_networks:make"
    description = load_bundle(own_bundle).description
    entry = description["views"]["SA"]["segmenters"][1]
    entry["network"], entry["parameters"] = name, {"width": 3}
    from safetensors.torch import load_file

    files = [*description["views"]["SA"]["segmenters"], *(description["views"]["SA"][k] for k in ("qc", "locator"))]
    weights = {e["file"]: load_file(own_bundle / e["file"]) for e in files}
    weights[entry["file"]] = nn.Conv2d(1, 4, 3).state_dict()
    path = tmp_path / "foreign"
    write_bundle(path, description, weights)

    assert load_bundle(path).views == ("SA",)
    for allow in ((), ("foreign_rvqc_networks",), ("other:make",)):
        with pytest.raises(BundleError, match=f"segmenter2.*allow it by name.*{name}"):
            load_bundle(path, allow=allow).models("SA", "cpu")
    assert "foreign_rvqc_networks" not in sys.modules and not foreign.exists()

    models = load_bundle(path, allow=[name]).models("SA", "cpu")
    assert isinstance(models.segmenters[1], nn.Conv2d) and models.names[1] == name
    assert foreign.exists()
