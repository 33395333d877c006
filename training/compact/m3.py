"""Training of the compact M3Lung-Sys slice network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.findings import PneumoniaClass
from networks.m3lung import M3PatientNet, M3SliceNet, SliceOutput, nearness
from training.compact.augment import Strength, lung_views, sample, uniform, window
from training.compact.drawing import drawer, groups_of
from training.compact.fitting import Losses, Schedule, channels_last, fit, load_weights
from training.compact.masks import pixel_loss
from training.compact.pool import NOT_COVID, Pool
from training.preprocessing import M3_WIDTH

SIZE = 224
BATCH = 16

SHARES = {
    "healthy": 2.6,
    "simulated healthy": 1.8,
    "covid": 1.0,
    "cap": 1.0,
    "simulated covid": 3.0,
    "simulated cap": 3.0,
    "simulated h1n1": 1.2,
    "ct100": 1.4,
    "figure covid": 1.2,
    "figure other": 1.6,
}


def slice_network() -> M3SliceNet:
    """The compact slice network: ResNet-50's depth at a quarter of its width and less in stage 4; D = 640."""
    return M3SliceNet(planes=(16, 32, 64, 96), stem=16)


def patient_network() -> M3PatientNet:
    """The compact patient network for D = 640: two scales, two narrow heads."""
    return M3PatientNet(features=640, head_width=16, heads=2, scales=(1, 2), norm="softmax")


class SupervisedSliceNet(nn.Module):
    """The slice network with a mask head on stage 2, which is dropped after training."""

    def __init__(self, network: M3SliceNet) -> None:
        super().__init__()
        self.network = network
        self.mask_head = nn.Conv2d(network.encoder.channels[1], 1, 1)
        self.map_scale = nn.Parameter(torch.tensor([1.0, -2.0]))

    def forward(self, x: Tensor) -> tuple[SliceOutput, Tensor, Tensor]:
        """Output of the network, mask logits at stride 8, and the lesion prototype's map as logits at stride 16."""
        encoder = self.network.encoder
        stages: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, o: stages.append(o))
            for layer in (encoder.layer2, encoder.layer3)
        ]
        try:
            output = self.network(x)
        finally:
            for hook in hooks:
                hook.remove()
        weight = self.network.lesion_head.weight
        near = nearness(stages[1], (weight[1] - weight[0])[None].expand(len(x), -1), "inner")
        return output, self.mask_head(stages[0]), (near * self.map_scale[0] + self.map_scale[1])[:, None]


def train_slice_network(
    pool: Pool,
    schedule: Schedule,
    checkpoint: Path,
    seed: int,
    without: Sequence[str] = (),
    start: Path | None = None,
) -> M3SliceNet:
    """Train on the pool without the patients named in `without`; the averaged network, evaluation mode."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    model = channels_last(SupervisedSliceNet(slice_network()))
    if start is not None:
        load_weights(model, start)
    draw = drawer(groups_of(pool.table, without), SHARES)

    def losses(step: int) -> Losses:
        indices = draw.draw(BATCH, rng)
        hu, mask = sample(pool, indices, lung_views(pool, indices, 0.1, rng), SIZE, Strength(), rng)
        centre = uniform(-740, -460, BATCH, rng)
        x = window(hu, centre, M3_WIDTH * uniform(0.85, 1.15, BATCH, rng))
        masked = torch.from_numpy(pool.table.masked[indices])
        label = _labels_after_crop(torch.from_numpy(pool.table.label[indices]), masked, mask)
        with torch.autocast("cpu", torch.bfloat16):
            output, mask_logits, near = model(x.to(memory_format=torch.channels_last))
        return _losses(output, mask_logits.float(), near.float(), label, masked, mask)

    average = fit(model, losses, schedule, checkpoint)
    network = average.network
    assert isinstance(network, M3SliceNet)
    return network


def _labels_after_crop(label: Tensor, masked: Tensor, mask: Tensor) -> Tensor:
    """A slice whose known lesions were all cropped away counts as healthy."""
    gone = masked & (mask.flatten(1).sum(1) == 0) & (label > 0)
    return torch.where(gone, torch.full_like(label, int(PneumoniaClass.HEALTHY)), label)


def _losses(
    output: SliceOutput, mask_logits: Tensor, near: Tensor, label: Tensor, masked: Tensor, mask: Tensor
) -> Losses:
    classes, lesion = output.class_logits.float(), output.lesion_logits.float()
    known = label >= 0
    named = functional.cross_entropy(classes[known], label[known], label_smoothing=0.05)
    ill = functional.cross_entropy(lesion[known], (label[known] > 0).long(), label_smoothing=0.05)
    other = label == NOT_COVID
    share = torch.softmax(classes, dim=1)[other, int(PneumoniaClass.COVID19)]
    # Of these figures only "not COVID-19" is known: the sum of the other three classes is the likelihood.
    not_covid = -torch.log1p(-share.clamp(max=0.999)).sum() / len(label)
    return {
        "class": named,
        "lesion": ill,
        "other": not_covid,
        "mask": 2 * pixel_loss(mask_logits, mask, masked),
        "map": 2 * pixel_loss(near, mask, masked),
        "location": _location_loss(output.location_map.float(), mask, masked),
    }


def _location_loss(location: Tensor, mask: Tensor, masked: Tensor) -> Tensor:
    """The displayed map itself on slices with known lesions, squared distance as in JCS eq. 4."""
    shown = masked & (mask.flatten(1).sum(1) > 0)
    if not shown.any():
        return location.sum() * 0
    target = functional.adaptive_max_pool2d(mask[shown], location.shape[-2:])[:, 0]
    return (location[shown] - target).square().mean()
