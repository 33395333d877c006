"""Encoders: sizes, strides, and parameter names of the public weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from networks.convolution import FrozenBatchNorm2d
from networks.res2net import Res2NetEncoder
from networks.resnet import ResNetEncoder
from networks.vgg import VGGEncoder


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes(maps: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    return [tuple(m.shape[1:]) for m in maps]


def test_vgg16_parameters_per_stage() -> None:
    with torch.device("meta"):
        encoder = VGGEncoder()
    starts = {0: 0, 5: 1, 10: 2, 17: 3, 24: 4, 31: 5}
    bounds = sorted(starts)
    stages = [count(encoder.features[a:b]) for a, b in itertools.pairwise(bounds)]
    assert stages == [38_720, 221_440, 1_475_328, 5_899_776, 7_079_424]
    assert count(encoder) == 14_714_688


@pytest.mark.parametrize(
    ("norm", "positions"),
    [
        ("none", [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]),
        ("train", [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]),
    ],
)
def test_vgg_convolutions_sit_where_torchvision_has_them(norm: str, positions: list[int]) -> None:
    with torch.device("meta"):
        encoder = VGGEncoder(norm=norm)  # type: ignore[arg-type]
    kernels = [n for n, p in encoder.named_parameters() if p.ndim == 4]
    assert kernels == [f"features.{i}.weight" for i in positions]


def test_vgg_strides_of_both_profiles() -> None:
    x = torch.zeros(1, 3, 64, 96)
    sizes = {"widths": (2, 3, 4, 5, 6), "depths": (1, 1, 1, 1, 1)}
    paper, public = VGGEncoder(**sizes), VGGEncoder(**sizes, pool_before_stage5=False)  # type: ignore[arg-type]
    assert shapes(paper(x)) == [(2, 64, 96), (3, 32, 48), (4, 16, 24), (5, 8, 12), (6, 4, 6)]
    assert shapes(public(x))[3:] == [(5, 8, 12), (6, 8, 12)]


def test_vgg_loads_public_weights_and_leaves_the_classifier_out() -> None:
    source = VGGEncoder((2, 2, 2, 2, 2), (1, 1, 1, 1, 1))
    state = {**source.state_dict(), "classifier.0.weight": torch.zeros(1)}
    encoder = VGGEncoder((2, 2, 2, 2, 2), (1, 1, 1, 1, 1))
    encoder.load_imagenet(state)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder(x)[-1], source(x)[-1])
    del state["features.0.weight"]
    with pytest.raises(RuntimeError, match=r"features\.0\.weight"):
        encoder.load_imagenet(state)


def test_resnet50_names_and_parameters() -> None:
    with torch.device("meta"):
        plain, widened = ResNetEncoder(), ResNetEncoder(extra_channels=4)
    names = set(plain.state_dict())
    assert len(names) == 318  # torchvision's 320 less the two of `fc`
    assert {"conv1.weight", "layer1.0.downsample.1.running_mean", "layer4.2.conv3.weight"} <= names
    trunk3 = count(plain) - count(plain.layer4)
    assert trunk3 == 8_543_296
    assert count(plain.layer4) == 14_964_736
    assert count(widened.layer4) == 14_974_976


def test_resnet_extra_columns_start_at_zero_so_that_the_start_is_the_plain_network() -> None:
    sizes = ((1, 1, 1, 1), (2, 2, 2, 2), 4)
    plain = ResNetEncoder(*sizes).eval()
    widened = ResNetEncoder(*sizes, extra_channels=4).eval()
    widened.load_imagenet({**plain.state_dict(), "fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})
    third = plain.to_stage3(torch.randn(2, 3, 64, 64))[-1]
    noise = torch.randn(2, 4, *third.shape[2:])
    assert torch.allclose(widened.layer4(torch.cat([third, noise], 1)), plain.layer4(third), atol=1e-6)


def test_res2net101_parameters_and_group_widths() -> None:
    with torch.device("meta"):
        encoder = Res2NetEncoder()
    assert count(encoder) == 43_176_920
    norms = sum(count(m) for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    assert norms == 119_188
    widths = [stage[0].width for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)]  # type: ignore[union-attr]
    assert widths == [26, 52, 104, 208]
    assert {
        "conv1.0.weight",
        "conv1.6.weight",
        "bn1.weight",
        "layer1.0.convs.2.weight",
        "layer1.0.bns.2.running_var",
        "layer1.0.downsample.1.weight",
        "layer1.0.downsample.2.bias",
        "layer3.22.conv3.weight",
    } <= set(encoder.state_dict())


def test_res2net_maps_at_224() -> None:
    encoder = Res2NetEncoder((1, 1, 1, 1), (16, 32, 32, 32)).eval()
    with torch.no_grad():
        maps = encoder(torch.zeros(1, 3, 224, 224))
    assert shapes(maps) == [(16, 112, 112), (64, 56, 56), (128, 28, 28), (128, 14, 14), (128, 7, 7)]


def test_res2net_chains_groups_only_after_the_first_block() -> None:
    """In a first block group 0 reaches only its own convolution; in a later one it reaches the next group."""
    encoder = Res2NetEncoder((2, 1, 1, 1), (32, 32, 32, 32)).eval()
    for block, chained in ((encoder.layer1[0], False), (encoder.layer1[1], True)):  # type: ignore[index]
        captured: list[Tensor] = []
        hook = block.convs[1].register_forward_pre_hook(lambda _, args, into=captured: into.append(args[0]))
        x = torch.rand(1, block.conv1.in_channels, 8, 8)
        groups = torch.relu(block.bn1(block.conv1(x))).split(block.width, 1)
        block(x)
        hook.remove()
        assert torch.allclose(captured[0], groups[1], atol=1e-6) != chained


@pytest.mark.parametrize(
    ("name", "encoder", "pooled_last"),
    [("res2net101d", Res2NetEncoder, False), ("resnet50", ResNetEncoder, False), ("vgg16", VGGEncoder, True)],
)
def test_encoders_agree_with_timm(name: str, encoder: type, pooled_last: bool) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name, num_classes=0, global_pool="").eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # as made, the statistics are 0 and 1, and show no mistake
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = encoder().eval()
    ours.load_imagenet(theirs.state_dict())
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        last = nn.functional.max_pool2d(ours(x)[-1], 2) if pooled_last else ours(x)[-1]
        assert torch.allclose(last, theirs.forward_features(x), atol=1e-5)


def test_frozen_normalisation_equals_batch_norm_in_evaluation() -> None:
    trained = nn.BatchNorm2d(3)
    with torch.no_grad():
        trained.weight.uniform_(0.5, 2)
        trained.bias.normal_()
        trained.running_mean.normal_()  # type: ignore[union-attr]
        trained.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    frozen = FrozenBatchNorm2d(3)
    frozen.load_state_dict(trained.state_dict())
    x = torch.randn(2, 3, 4, 5)
    assert torch.allclose(frozen(x), trained.eval()(x), atol=1e-6)
    assert count(frozen) == 0
