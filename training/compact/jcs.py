"""Training of the compact JCS: classifier and joint segmenter in one run.

The segmenter is fused with the classifier's trunk from the first step (JCS Fig. 4), so that the masks also teach
the trunk where lesions are: without that a classifier this small looks at anything but lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.findings import PneumoniaClass
from networks.jcs import (
    POSITIVE,
    JCSClassifier,
    JCSJoint,
    JCSSegmenter,
    activation_map,
    normalise_activation_map,
)
from networks.losses import deep_supervision_loss, segmentation_guided_loss
from training.compact.augment import Strength, sample, square_views, uniform, window
from training.compact.drawing import drawer, groups_of
from training.compact.fitting import Losses, Schedule, channels_last, fit, load_weights
from training.compact.masks import pixel_loss
from training.compact.pool import NOT_COVID, UNKNOWN, Pool

CLASSIFY_SIZE = 224
SEGMENT_SIZE = 256
_SEGMENT_CROP = 160
_CLASSIFY_BATCH = 16
_SEGMENT_BATCH = 8

CLASSIFY_SHARES = {
    "healthy": 2.2,
    "simulated healthy": 1.3,
    "covid": 0.9,
    "cap": 0.5,
    "simulated covid": 2.2,
    "simulated cap": 0.8,
    "simulated h1n1": 0.2,
    "ct100": 0.9,
    "figure covid": 3.3,
    "figure other": 3.7,
}
SEGMENT_SHARES = {
    "healthy": 0.9,
    "simulated healthy": 0.6,
    "simulated covid": 1.7,
    "simulated cap": 0.9,
    "simulated h1n1": 0.3,
    "ct100": 3.6,
}

_TARGETS = {
    int(PneumoniaClass.HEALTHY): 0.03,
    int(PneumoniaClass.COVID19): 0.97,
    int(PneumoniaClass.H1N1): 0.2,
    int(PneumoniaClass.CAP): 0.2,
    NOT_COVID: 0.03,
}
"""Wanted probability of COVID-19. Simulated pneumonias of other kinds look too much like it for a plain no."""


class Classified(NamedTuple):
    """The classifier's outputs that training looks at."""

    logits: Tensor
    """[N, 2]."""
    signed_map: Tensor
    """[N, 1, h, w] at stride 32: what each place adds to the difference of the two logits, as lesion logits."""
    features: Tensor
    """[N, K, h, w], the map before pooling."""
    masks: list[Tensor]
    """Lesion logits [N, 1, h, w] at strides 8 and 16."""


class CompactJCS(nn.Module):
    """Classifier and joint segmenter around one trunk, with mask heads on the trunk for training."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = JCSClassifier(depths=(2, 3, 4, 2), planes=(24, 40, 80, 128), base_width=32)
        segmenter = JCSSegmenter(widths=(12, 24, 48, 96, 96), encoder_norm="train", decoder_norm="train")
        self.joint = JCSJoint(segmenter=segmenter, trunk=self.classifier.encoder)
        second, third = self.classifier.encoder.channels[2:4]
        self.mask_heads = nn.ModuleList([nn.Conv2d(second, 1, 1), nn.Conv2d(third, 1, 1)])
        # Without a bias of its own the map's mean is the class logit, which must be free to be positive.
        self.map_scale = nn.Parameter(torch.tensor([1.0, -2.0]))

    def classify(self, x: Tensor) -> Classified:
        """What `Classified` holds of x [N, 3, H, W]."""
        maps = self.classifier.encoder(x)
        logits = self.classifier.logits(maps[-1])
        weight = self.classifier.fc.weight
        difference = (weight[POSITIVE] - weight[1 - POSITIVE])[None, :, None, None]
        signed = functional.conv2d(maps[-1], difference) * self.map_scale[0] + self.map_scale[1]
        masks = [head(m) for head, m in zip(self.mask_heads, maps[2:4], strict=True)]
        return Classified(logits, signed, maps[-1], masks)


def train_jcs(
    pool: Pool,
    schedule: Schedule,
    checkpoint: Path,
    seed: int,
    without: Sequence[str] = (),
    start: Path | None = None,
    segment_every: int = 2,
) -> CompactJCS:
    """Train on the pool without the patients named in `without`; the averaged networks, evaluation mode.

    Masks are learnt sooner than classes and cost twice as much: the segmenter has a turn every `segment_every` steps.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    model = channels_last(CompactJCS())
    if start is not None:
        load_weights(model, start)
    groups = groups_of(pool.table, without)
    for_class, for_mask = drawer(groups, CLASSIFY_SHARES), drawer(groups, SEGMENT_SHARES)

    def losses(step: int) -> Losses:
        chosen = for_class.draw(_CLASSIFY_BATCH, rng)
        x, mask = _inputs(pool, chosen, (0.68, 1.0), CLASSIFY_SIZE, rng)
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.classify(x)
        parts = _classify_losses(model, seen, chosen, pool, mask)
        if step % segment_every:
            return parts
        chosen = for_mask.draw(_SEGMENT_BATCH, rng)
        x, mask = _inputs(pool, chosen, (0.45, 0.78), _SEGMENT_CROP, rng)
        with torch.autocast("cpu", torch.bfloat16):
            sides = model.joint(x)
        parts["segment"] = 0.4 * deep_supervision_loss(sides.float(), mask, 2.0, "batch")
        return parts

    average = fit(model, losses, schedule, checkpoint)
    assert isinstance(average, CompactJCS)
    return average


def _inputs(
    pool: Pool,
    indices: npt.NDArray[np.int64],
    share: tuple[float, float],
    size: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    hu, mask = sample(pool, indices, square_views(pool, indices, share, rng), size, Strength(), rng)
    n = len(indices)
    x = window(hu, uniform(-720, -480, n, rng), uniform(1100, 1800, n, rng))
    return x.to(memory_format=torch.channels_last), mask


def _classify_losses(
    model: CompactJCS,
    seen: Classified,
    indices: npt.NDArray[np.int64],
    pool: Pool,
    mask: Tensor,
) -> dict[str, Tensor]:
    masked = torch.from_numpy(pool.table.masked[indices])
    label = torch.from_numpy(pool.table.label[indices])
    gone = masked & (mask.flatten(1).sum(1) == 0)
    label = torch.where(gone & (label > 0), torch.zeros_like(label), label)
    known = label != UNKNOWN
    target = torch.tensor([_TARGETS.get(int(value), 0.5) for value in label])
    difference = (seen.logits[:, POSITIVE] - seen.logits[:, 1 - POSITIVE]).float()
    shown = masked & (label == PneumoniaClass.COVID19)
    settled = masked & ((label == PneumoniaClass.COVID19) | (label == PneumoniaClass.HEALTHY))
    # Pictures of other diseases show lesions, but nothing in them speaks for COVID-19: an empty map.
    settled |= label == NOT_COVID
    am = activation_map(seen.features[shown].float(), model.classifier.fc.weight[POSITIVE].float())
    fine = functional.interpolate(normalise_activation_map(am)[:, None], mask.shape[-2:], mode="bilinear")
    return {
        "class": functional.binary_cross_entropy_with_logits(difference[known], target[known]),
        "map": 0.7 * pixel_loss(seen.signed_map.float(), mask, settled),
        "heads": 0.5 * sum((pixel_loss(head.float(), mask, masked) for head in seen.masks), torch.zeros(())),
        "guided": segmentation_guided_loss(fine[:, 0], mask[shown][:, 0], "mse"),
    }
