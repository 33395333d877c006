"""JCS networks: equations by hand, parameters, shapes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from networks.convolution import SqueezeExcitation
from networks.jcs import (
    AFF,
    GAM,
    JCSClassifier,
    JCSJoint,
    JCSSegmenter,
    activation_map,
    normalise_activation_map,
)
from networks.res2net import Res2NetEncoder

SMALL_TRUNK = {"depths": (1, 1, 1, 1), "planes": (16, 16, 16, 16)}
SMALL_VGG = {"widths": (4, 8, 8, 16, 16), "depths": (1, 1, 1, 1, 1)}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small_joint(profile: str = "paper") -> JCSJoint:
    return JCSJoint(
        profile,  # type: ignore[arg-type]
        segmenter=JCSSegmenter(profile, **SMALL_VGG),  # type: ignore[arg-type]
        trunk=Res2NetEncoder(**SMALL_TRUNK),  # type: ignore[arg-type]
    ).eval()


def test_activation_map_by_hand() -> None:
    """w = (2, -1) / 4: per channel only 0.5 X1 is left, in the sum X2 is subtracted first."""
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[4.0, 0.0], [1.0, 2.0]]]])
    weights = torch.tensor([2.0, -1.0])
    assert activation_map(features, weights).tolist() == [[[0.5, 1.0], [1.5, 2.0]]]
    assert activation_map(features, weights, relu="sum").tolist() == [[[0.0, 1.0], [1.25, 1.5]]]


def test_activation_map_weight_is_the_gradient_of_eq_1() -> None:
    """w_k = mean over the positions of d logit / d X_k, here for a real head."""
    net = JCSClassifier(**SMALL_TRUNK).eval()  # type: ignore[arg-type]
    features = net.features(torch.randn(1, 3, 64, 96)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.logits(features)[0, 1], features)
    w = gradient.mean(dim=(2, 3))[0]
    expected = torch.relu(w[None, :, None, None] * features).sum(1)
    assert torch.allclose(activation_map(features, net.fc.weight[1]), expected, atol=1e-7)


def test_activation_map_refuses_an_unknown_relu() -> None:
    with pytest.raises(ValueError, match="per_channel"):
        activation_map(torch.zeros(1, 1, 1, 1), torch.zeros(1), relu="none")  # type: ignore[arg-type]


def test_normalised_activation_map_spans_0_to_1_and_a_flat_map_is_0() -> None:
    am = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[5.0, 5.0], [5.0, 5.0]]])
    assert torch.allclose(
        normalise_activation_map(am), torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    )


def test_activation_map_is_differentiable_to_the_first_layer() -> None:
    net = JCSClassifier(**SMALL_TRUNK)  # type: ignore[arg-type]
    _, am = net.with_activation_map(torch.randn(2, 3, 64, 64))
    normalise_activation_map(am).sum().backward()  # type: ignore[no-untyped-call]
    first = net.encoder.conv1[0].weight.grad
    assert first is not None
    assert first.abs().sum() > 0


def test_channel_gate_by_hand() -> None:
    """Means 0.5 and 0.5, hidden ReLU(1) = 1, gates sigmoid(ln 3) = 0.75 and sigmoid(0) = 0.5."""
    gate = SqueezeExcitation(2, 1)
    with torch.no_grad():
        gate.fc1.weight.copy_(torch.ones(1, 2))
        gate.fc2.weight.copy_(torch.tensor([[math.log(3)], [0.0]]))
        gate.fc1.bias.zero_(), gate.fc2.bias.zero_()
    x = torch.tensor([[[[0.0, 1.0]], [[1.0, 0.0]]]])
    assert torch.allclose(gate(x), torch.tensor([[[[0.0, 0.75]], [[0.5, 0.0]]]]))


def test_branches_of_gam_are_the_dilated_convolutions_of_eq_5() -> None:
    """n = 3, all weights 1, bias 0.5: what is 0 or 3 rows and columns away reaches x[0, 0] = 1."""
    branch = GAM(2, (1, 3, 6, 9)).branches[1]
    with torch.no_grad():
        branch.weight.fill_(1.0), branch.bias.fill_(0.5)  # type: ignore[operator, union-attr]
    x = torch.zeros(1, 1, 5, 5)
    x[..., 0, 0] = 1.0
    expected = torch.full((5, 5), 0.5)
    expected[0, 0] = expected[0, 3] = expected[3, 0] = expected[3, 3] = 1.5
    assert torch.allclose(branch(x)[0, 0], expected)


def test_parameters_of_the_full_networks() -> None:
    with torch.device("meta"):
        assert count(JCSClassifier()) == 43_181_016
        assert count(GAM(512, (1, 3, 6, 9))) == 6_295_808
        paper, public = JCSSegmenter(), JCSSegmenter("public")
        joint, joint_public = JCSJoint(), JCSJoint("public")
    assert count(paper) == 40_864_253
    assert count(public) == 42_501_423
    assert [count(f) for f in paper.fusions] == [93_128, 371_600, 1_484_576, 5_803_584, 5_803_584]
    assert [count(f) for f in public.fusions] == [86_754, 345_538, 1_379_202, 5_379_842, 5_379_842]
    assert [count(s) for s in paper.sides] == [65, 129, 257, 513, 513]
    assert [count(f) for f in joint.fusions] == [47_312, 205_216, 820_032, 3_278_464, 3_802_752]
    assert count(joint) == 92_194_949
    assert count(joint_public.fusions) == 32_158_656


def test_parameters_inside_gam_and_aff() -> None:
    with torch.device("meta"):
        gam, aff = GAM(512, (1, 2, 3, 4)), AFF(512, 512)
    assert [count(m) for m in (gam.expand, gam.branches, gam.se, gam.reduce, gam.transition)] == [
        525_312,
        2_360_320,
        525_568,
        524_800,
        2_359_808,
    ]
    assert [count(m) for m in (aff.low, aff.se1, aff.transition1, aff.se2, aff.reduce)] == [
        131_328,
        131_712,
        2_359_808,
        295_872,
        393_728,
    ]


def test_classifier_head_has_no_bias() -> None:
    assert JCSClassifier(**SMALL_TRUNK).fc.bias is None  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (500, 400), (32, 32)])
@pytest.mark.parametrize("profile", ["paper", "public"])
def test_segmenter_sides_have_the_input_size(profile: str, size: tuple[int, int]) -> None:
    net = JCSSegmenter(profile, **SMALL_VGG).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        assert net(torch.randn(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("size", [(256, 256), (125, 100)])
@pytest.mark.parametrize("profile", ["paper", "public"])
def test_joint_sides_have_the_input_size(profile: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert small_joint(profile)(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_encoder_maps_have_the_strides_of_their_profile() -> None:
    x = torch.zeros(1, 3, 128, 128)
    for profile, sizes in (("paper", [128, 64, 32, 16, 8, 4]), ("public", [128, 64, 32, 16, 16, 8])):
        maps = JCSSegmenter(profile, **SMALL_VGG).encode(x)  # type: ignore[arg-type]
        assert [m.shape[-1] for m in maps] == sizes


def test_prediction_is_channel_0() -> None:
    x = torch.randn(1, 3, 64, 48)
    for net in (JCSSegmenter(**SMALL_VGG), small_joint()):  # type: ignore[arg-type]
        with torch.no_grad():
            assert torch.allclose(net.prediction(x), net(x)[:, :1], atol=1e-6)  # type: ignore[operator]


def test_joint_depends_on_the_classifier_features() -> None:
    net, x = small_joint(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net(x)
        net.trunk.layer4[-1].bn3.bias.add_(1.0)  # type: ignore[union-attr, operator]
        assert not torch.allclose(net(x), before)


def test_frozen_classifier_stays_as_it_is_in_training() -> None:
    net = JCSJoint(
        segmenter=JCSSegmenter(**SMALL_VGG),  # type: ignore[arg-type]
        trunk=Res2NetEncoder(**SMALL_TRUNK),  # type: ignore[arg-type]
        freeze_classifier=True,
    ).train()
    before = {k: v.clone() for k, v in net.trunk.state_dict().items()}
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in net.trunk.state_dict().items())
    assert all(p.grad is None for p in net.trunk.parameters())
    assert net.segmenter.sides[0].weight.grad is not None


@pytest.mark.parametrize(("efm", "aff"), [(False, False), (True, False), (False, True)])
def test_ablations_run_and_are_smaller(efm: bool, aff: bool) -> None:
    full, less = JCSSegmenter(**SMALL_VGG), JCSSegmenter(**SMALL_VGG, efm=efm, aff=aff)  # type: ignore[arg-type]
    assert count(less) < count(full)
    with torch.no_grad():
        assert less(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)


def test_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="paper"):
        JCSSegmenter("other")  # type: ignore[arg-type]


def test_gam_refuses_groups_that_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="groups"):
        GAM(5, (1, 2, 3, 4))


def test_full_size_classifier_forward() -> None:
    net = JCSClassifier().eval()
    with torch.no_grad():
        logits, am = net.with_activation_map(torch.randn(1, 3, 224, 224))
    assert logits.shape == (1, 2)
    assert am.shape == (1, 7, 7)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["paper", "public"])
def test_full_size_joint_forward_at_512(profile: str) -> None:
    net = JCSJoint(profile).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        maps = net.segmenter.encode(torch.zeros(1, 3, 512, 512))
        assert net(torch.zeros(1, 3, 512, 512)).shape == (1, 5, 512, 512)
    sizes = {"paper": [512, 256, 128, 64, 32, 16], "public": [512, 256, 128, 64, 64, 32]}[profile]
    assert [m.shape[-1] for m in maps] == sizes
