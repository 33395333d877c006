"""M3Lung-Sys networks: equations by hand, parameters, symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.assessment import fused_slice_probabilities
from networks.m3lung import (
    Aggregation,
    M3PatientNet,
    M3SliceNet,
    Refinement,
    coordinate_maps,
    min_max,
    nearness,
    normalise_rows,
    part_rows,
    slice_loss,
)

SMALL = {"depths": (1, 1, 1, 1), "planes": (4, 4, 4, 4), "stem": 4}
F = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
ONE_PART = torch.ones(1, 2, dtype=torch.bool)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def identity_(*layers: nn.Linear) -> None:
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()


def test_parameters_of_the_full_networks() -> None:
    with torch.device("meta"):
        slices, biased, patient = M3SliceNet(), M3SliceNet(lesion_bias=True), M3PatientNet()
    assert count(slices) == 23_528_516
    assert count(biased) == 23_528_518
    assert count(slices.encoder.layer4) == 14_974_976
    assert count(slices.lesion_head) == 2_048
    assert count(slices.class_head) == 8_196
    assert patient.refinement is not None
    assert count(patient.refinement) == 75_518_976
    assert count(patient.aggregation) == 18_883_584
    assert count(patient.fc) == 94_374_912
    assert count(patient.classifier) == 12_292
    assert count(patient) == 188_789_764


def test_coordinate_maps_of_32_columns() -> None:
    x, y, d = coordinate_maps(32, 32, torch.zeros(1))
    assert x[0, :2].tolist() == pytest.approx([-1.0, -0.935484], abs=1e-6)
    assert torch.equal(y, x.T)
    assert d[0, 0].item() == pytest.approx(math.sqrt(2))
    assert d[15, 15].item() == pytest.approx(math.sqrt(2) / 31, abs=1e-6)


def test_nearness_by_hand() -> None:
    features = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    prototype = torch.tensor([[1.0, 0.0]])
    assert nearness(features, prototype, "inner").item() == 3.0
    assert nearness(features, prototype, "cosine").item() == pytest.approx(0.6)
    assert nearness(features, prototype, "euclidean").item() == pytest.approx(-math.sqrt(20))
    with pytest.raises(ValueError, match="distance"):
        nearness(features, prototype, "manhattan")  # type: ignore[arg-type]


def test_mean_of_the_unnormalised_map_is_the_logit() -> None:
    net = M3SliceNet(**SMALL).eval()  # type: ignore[arg-type]
    x = torch.randn(3, 3, 64, 64)
    third = net.encoder.to_stage3(x)[-1]
    logits = net(x).lesion_logits
    predicted = logits.argmax(1)
    unnormalised = nearness(third, net.lesion_head.weight[predicted], "inner")
    assert torch.allclose(unnormalised.mean(dim=(1, 2)), logits.amax(dim=1), atol=1e-5)


def test_min_max_of_a_constant_map_is_zero() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[7.0, 7.0], [7.0, 7.0]]])
    assert min_max(maps).tolist() == [[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]


@pytest.mark.parametrize("size", [(512, 512), (256, 256), (512, 384)])
def test_slice_network_shapes(size: tuple[int, int]) -> None:
    net = M3SliceNet(**SMALL).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        out = net(torch.randn(2, 3, *size))
    assert out.lesion_logits.shape == (2, 2)
    assert out.class_logits.shape == (2, 4)
    assert out.location_map.shape == (2, size[0] // 16, size[1] // 16)
    assert out.features.shape == (2, 32) == (2, net.feature_width)


def test_full_size_slice_network_forward() -> None:
    net = M3SliceNet().eval()
    with torch.no_grad():
        out = net(torch.randn(1, 3, 512, 512))
    assert out.location_map.shape == (1, 32, 32)
    assert out.features.shape == (1, 3072)
    assert out.location_map.amin() == 0
    assert out.location_map.amax() == 1


@pytest.mark.parametrize(
    ("attention", "coordinates", "inputs"), [(0, 0, 16), (1, 0, 17), (0, 1, 19), (1, 1, 20)]
)
def test_ablations_change_the_input_of_stage_4(attention: int, coordinates: int, inputs: int) -> None:
    net = M3SliceNet(**SMALL, attention=bool(attention), coordinates=bool(coordinates))  # type: ignore[arg-type]
    assert net.encoder.layer4[0].conv1.in_channels == inputs  # type: ignore[union-attr, index]
    assert net(torch.randn(2, 3, 64, 64)).class_logits.shape == (2, 4)


def test_without_the_lesion_head_eq_4_leaves_the_classes_as_they_are() -> None:
    net = M3SliceNet(**SMALL, attention=False, coordinates=False, multi_task=False).eval()  # type: ignore[arg-type]
    assert count(net) == count(M3SliceNet(**SMALL, attention=False, coordinates=False)) - 2 * 16  # type: ignore[arg-type]
    with torch.no_grad():
        out = net(torch.randn(3, 3, 64, 64))
    classes = out.class_logits.softmax(1).numpy()
    assert fused_slice_probabilities(out.lesion_logits.softmax(1).numpy(), classes) == pytest.approx(classes)
    assert out.location_map.shape == (3, 4, 4)
    assert not out.location_map.any()
    with pytest.raises(ValueError, match="attention=False"):
        M3SliceNet(**SMALL, multi_task=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("detach", [False, True])
def test_disease_loss_reaches_the_prototype_only_through_the_map(detach: bool) -> None:
    net = M3SliceNet(**SMALL, detach_map=detach)  # type: ignore[arg-type]
    net(torch.randn(2, 3, 64, 64)).class_logits.square().sum().backward()
    assert (net.lesion_head.weight.grad is None) == detach


def test_slice_loss_by_hand() -> None:
    """Even logits: ln 2 + ln 4, whatever the labels."""
    loss = slice_loss(torch.zeros(3, 2), torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    assert loss.item() == pytest.approx(math.log(8))


def test_slice_loss_groups_all_diseases() -> None:
    ill = torch.tensor([[-50.0, 50.0]])
    for label, lesion_part in ((0, 100.0), (1, 0.0), (3, 0.0)):
        loss = slice_loss(ill, torch.zeros(1, 4), torch.tensor([label])).item()
        assert loss == pytest.approx(lesion_part + math.log(4), abs=1e-4)


def test_normalise_rows_by_hand() -> None:
    assert normalise_rows(torch.tensor([1.0, 3.0]), "sum").tolist() == [0.25, 0.75]
    soft = normalise_rows(torch.tensor([0.0, math.log(3)]), "softmax")
    assert soft.tolist() == pytest.approx([0.25, 0.75])
    masked = torch.tensor([True, False, True])
    for norm in ("sum", "softmax"):
        row = normalise_rows(torch.tensor([2.0, 9.0, 2.0]), norm, masked)  # type: ignore[arg-type]
        assert row.tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(("row", "expected"), [([1.0, -1.0], [1e6, -1e6]), ([1e-7, -3e-7], [-0.1, 0.3])])
def test_rows_that_sum_to_nothing_are_guarded(row: list[float], expected: list[float]) -> None:
    assert normalise_rows(torch.tensor(row), "sum").tolist() == pytest.approx(expected, rel=1e-4)


def test_refinement_over_channels_by_hand() -> None:
    """All projections the identity: A = F'F = [[10, 14], [14, 20]], rows over 24 and 34, O = F H, plus F."""
    refinement = Refinement(2, 2, 1)
    identity_(refinement.f1, refinement.f2, refinement.f3, refinement.f4)
    h = torch.tensor([[10 / 24, 14 / 24], [14 / 34, 20 / 34]])
    assert torch.allclose(refinement(F, ONE_PART), F + F @ h)
    assert torch.allclose((F @ h)[0], torch.tensor([1.240196, 1.759804]))


def test_refinement_over_slices_by_hand() -> None:
    """A = FF' = [[5, 11], [11, 25]], rows over 16 and 36, O = H F, plus F."""
    refinement = Refinement(2, 2, 1, axis="slice")
    identity_(refinement.f1, refinement.f2, refinement.f3, refinement.f4)
    expected = F + torch.tensor([[2.375, 3.375], [86 / 36, 122 / 36]])
    assert torch.allclose(refinement(F, ONE_PART), expected)


def test_aggregation_by_hand() -> None:
    """k = (1, 0): scores 1 and 3, weights 0.25 and 0.75."""
    aggregation = Aggregation(2)
    identity_(aggregation.f2, aggregation.f3)
    with torch.no_grad():
        aggregation.query.copy_(torch.tensor([1.0, 0.0]))
    assert aggregation(F, ONE_PART).tolist() == [[2.5, 3.5]]


def test_parts_are_even_and_the_first_ones_longer() -> None:
    rows, parts = part_rows(torch.arange(10.0)[:, None], 4)
    assert rows.flatten().tolist() == list(range(10))
    assert [p.nonzero().flatten().tolist() for p in parts] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]


def test_fewer_slices_than_parts_are_repeated() -> None:
    rows, parts = part_rows(torch.arange(3.0)[:, None], 4)
    assert [rows[p].flatten().tolist() for p in parts] == [[0], [0], [1], [2]]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), count_=st.integers(1, 6))
def test_parts_agree_with_tensor_split(n: int, count_: int) -> None:
    features = torch.arange(float(n))[:, None]
    rows, parts = part_rows(features, count_)
    if n >= count_:
        expected = [p.flatten().tolist() for p in torch.tensor_split(features, count_)]
    else:
        expected = [[float(i * n // count_)] for i in range(count_)]
    assert [rows[p].flatten().tolist() for p in parts] == expected


def reference(net: M3PatientNet, features: Tensor) -> Tensor:
    """The printed way: every part cut out and sent alone through the shared head."""
    assert net.refinement is not None
    vectors = []
    for s in net.scales:
        for part in torch.tensor_split(features, s):
            whole = torch.ones(1, len(part), dtype=torch.bool)
            vectors.append(net.aggregation(net.refinement(part, whole), whole)[0])
    return net.classifier(net.fc(torch.cat(vectors)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("axis", ["channel", "slice"])
@pytest.mark.parametrize("norm", ["sum", "softmax", "relu_sum"])
def test_masked_parts_equal_parts_cut_out(axis: str, norm: str) -> None:
    net = M3PatientNet(24, 4, 3, axis=axis, norm=norm).double()  # type: ignore[arg-type]
    for n in (4, 10, 13):
        features = torch.rand(n, 24, dtype=torch.float64)
        assert torch.allclose(net(features), reference(net, features), rtol=1e-6)


@pytest.mark.parametrize("axis", ["channel", "slice"])
def test_refinement_is_equivariant_and_aggregation_invariant_to_slice_order(axis: str) -> None:
    refinement = Refinement(24, 4, 3, axis=axis).double()  # type: ignore[arg-type]
    aggregation = Aggregation(24).double()
    features, order = torch.rand(9, 24, dtype=torch.float64), torch.randperm(9)
    whole = torch.ones(1, 9, dtype=torch.bool)
    assert torch.allclose(refinement(features[order], whole), refinement(features, whole)[order])
    assert torch.allclose(aggregation(features[order], whole), aggregation(features, whole))


def test_patient_is_invariant_to_order_within_a_part_but_not_across_parts() -> None:
    net = M3PatientNet(24, 4, 3, scales=(1, 2)).double()
    features = torch.rand(8, 24, dtype=torch.float64)
    within, across = [3, 1, 0, 2, 5, 4, 7, 6], [7, 1, 2, 3, 4, 5, 6, 0]
    assert torch.allclose(net(features[within]), net(features))
    assert not torch.allclose(net(features[across]), net(features))
    single = M3PatientNet(24, 4, 3, scales=(1,)).double()
    assert torch.allclose(single(features[across]), single(features))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 50])
def test_patient_takes_any_number_of_slices(n: int) -> None:
    assert M3PatientNet(24, 4, 3)(torch.randn(n, 24)).shape == (4,)


def test_variants_of_table_iv() -> None:
    features = torch.rand(7, 24)
    variants = (
        M3PatientNet(24, 4, 3, pooling="max"),
        M3PatientNet(24, 4, 3, scales=(3,), refine=False),
        M3PatientNet(24, 4, 3, refine=False),
        M3PatientNet(24, 4, 3),
    )
    sizes = [count(net) for net in variants]
    assert sizes == sorted(sizes)
    assert sizes[0] == 24 * 4 + 4
    assert all(net(features).shape == (4,) for net in variants)
    assert torch.allclose(variants[0](features), variants[0].classifier(features.max(0).values))


def test_hidden_relu_is_an_option() -> None:
    net, features = M3PatientNet(24, 4, 3), torch.rand(7, 24)
    plain = net(features)
    net.hidden_relu = True
    assert not torch.allclose(net(features), plain)


@pytest.mark.parametrize("option", [{"axis": "time"}, {"pooling": "mean"}])
def test_unknown_options_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        M3PatientNet(24, 4, 3, **option)  # type: ignore[arg-type]
