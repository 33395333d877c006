"""The five trainings: which items they take, which network they build, which loss they lower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.findings import PneumoniaClass
from networks.convolution import resize, spatial_size
from networks.jcs import JCSClassifier, JCSJoint, JCSSegmenter, normalise_activation_map
from networks.losses import deep_supervision_loss, segmentation_guided_loss
from networks.m3lung import M3PatientNet, M3SliceNet, SliceOutput, slice_loss
from networks.res2net import Res2NetEncoder
from training.baselines import BaselineSegmenter, build_classifier
from training.datasets.items import Dataset, Item
from training.distillation import Lessons, Teachers
from training.preprocessing import normalise_grey
from training.recipe import Recipe, RecipeError, TaskName
from training.samples import Sample
from training.supervision import MaskHeads, stage_maps

Losses = dict[str, Tensor]
"""Parts of the loss by name; "loss" is what is lowered."""

LAST_STAGE = 4
"""Of the encoders: what the classifier's head sees."""


def build_network(recipe: Recipe) -> nn.Module:
    """The recipe's network, freshly initialised. Raises RecipeError where its arguments do not fit."""
    arguments = dict(recipe.network)
    baseline = arguments.pop("baseline", None)
    try:
        if baseline is not None:
            return _baseline(recipe.task, baseline)
        return _BUILDERS[recipe.task](arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"network of {recipe.task}: {error}") from error


def _joint(arguments: dict[str, Any]) -> JCSJoint:
    profile = arguments.pop("profile", "paper")
    segmenter = JCSSegmenter(profile, **arguments.pop("segmenter", {}))
    trunk = Res2NetEncoder(**arguments.pop("trunk", {}))
    return JCSJoint(profile, segmenter, trunk, **arguments)


def _baseline(task: TaskName, name: str) -> nn.Module:
    if task == "jcs-segmenter":
        return BaselineSegmenter(name)
    if task in ("jcs-classifier", "m3-slice"):
        return build_classifier(name, 2 if task == "jcs-classifier" else 4)
    raise ValueError(f"{task} has no baselines")


_BUILDERS: dict[TaskName, Callable[[dict[str, Any]], nn.Module]] = {
    "jcs-classifier": lambda arguments: JCSClassifier(**arguments),
    "jcs-segmenter": lambda arguments: JCSSegmenter(**arguments),
    "jcs-joint": _joint,
    "m3-slice": lambda arguments: M3SliceNet(**arguments),
    "m3-patient": lambda arguments: M3PatientNet(**arguments),
}


def wanted_items(recipe: Recipe, dataset: Dataset) -> tuple[Item, ...]:
    """The items that a recipe's training uses, without those of the patients it leaves out.

    Segmenters take slices with a mask, patient networks whole series (single pictures beside them are left out).
    Classifiers take healthy slices, and slices of diseases unless they are known to be free of lesions; with
    `classes.lesion_free` those too, as healthy ones. JCS leaves H1N1 and CAP out, unless `classes.others` says what is
    wanted on them.
    """
    items = tuple(item for item in dataset.items if item.patient not in recipe.without)
    if recipe.task in ("jcs-segmenter", "jcs-joint"):
        return tuple(item for item in items if item.mask is not None)
    if recipe.task == "m3-patient":
        items = _of_longer_series(items)
    jcs = recipe.task == "jcs-classifier"
    labels = (0, 1) if jcs and recipe.classes.others is None else (0, 1, 2, 3)
    free = recipe.classes.lesion_free or recipe.task == "m3-patient"
    return tuple(
        item
        for item in items
        if item.label in labels and (item.label == 0 or free or item.lesion is not False)
    )


def _of_longer_series(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """The items of series of more than one slice; all of them where there is no such series."""
    slices = Counter((item.source, item.patient, item.series) for item in items)
    longer = tuple(item for item in items if slices[item.source, item.patient, item.series] > 1)
    return longer or items


class SliceTraining(nn.Module):
    """A network with its loss, so that one forward call gives what is lowered.

    `teachers` are those of `recipe.distillation`. Raises RecipeError where the network cannot be trained as it says.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, teachers: Teachers | None = None) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.mask_heads: MaskHeads | None = None
        if recipe.supervision.weight > 0:
            self.mask_heads = MaskHeads(network, recipe.supervision.stages)
        self.lessons = None if teachers is None else _lessons(network, recipe, teachers)
        self._losses: Callable[[Sample, int], Losses] = {
            "jcs-classifier": self._classifier,
            "jcs-segmenter": self._segmenter,
            "jcs-joint": self._segmenter,
            "m3-slice": self._m3_slice,
        }[recipe.task]

    def forward(self, batch: Sample, step: int) -> Losses:
        """Losses of a batch, "loss" their weighted sum; random choices depend on the seed and `step` alone."""
        parts = self._losses(batch, step)
        recipe = self.recipe
        weights = {
            "guidance": recipe.guidance.beta,
            "supervision": recipe.supervision.weight,
            "teachers": recipe.distillation.weight,
            "hints": recipe.distillation.hints,
        }
        loss = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
        return {"loss": loss, **parts}

    def _segmenter(self, batch: Sample, step: int) -> Losses:
        sides = self.network(normalise_grey(batch["grey"])).float()
        dice = self.recipe.dice
        return {"segmentation": deep_supervision_loss(sides, batch["mask"], dice.factor, dice.reduction)}

    def _m3_slice(self, batch: Sample, step: int) -> Losses:
        label, smoothing = self._shown_class(batch), self.recipe.classes.smoothing
        out, parts = self._with_heads(self.network, normalise_grey(batch["grey"]), batch)
        two_heads = isinstance(out, SliceOutput) and getattr(self.network, "lesion_head", None) is not None
        parts["classification"] = _partly_known(
            out.lesion_logits.float() if two_heads else None,
            (out.class_logits if isinstance(out, SliceOutput) else out).float(),
            label,
            batch["only_not_covid19"],
            smoothing,
        )
        if not two_heads:
            return parts
        ill = _shows_lesion(batch)
        if self.recipe.guidance.beta > 0 and bool(ill.any()):
            seen = out.location_map[ill].float()
            target = functional.adaptive_max_pool2d(batch["mask"][ill], spatial_size(seen))[:, 0]
            parts["guidance"] = segmentation_guided_loss(seen, target, self.recipe.guidance.form)
        return parts

    def _classifier(self, batch: Sample, step: int) -> Losses:
        images, wanted = normalise_grey(batch["grey"]), self._wanted(batch)
        alpha = self.recipe.mixup.alpha if self.training else 0.0
        if alpha == 0:
            logits, parts = self._taught(lambda x: self._guided(x, batch), images, batch["picture"])
            return {"classification": _cross_entropy(logits, wanted), **parts}
        rng = np.random.default_rng([self.recipe.seed, step])
        share = float(rng.beta(alpha, alpha))
        partner = partners(batch["source"], rng, self.recipe.mixup.across_sources)
        mixed, pictures = share * images + (1 - share) * images[partner], batch["picture"]
        logits, parts = self._taught(lambda x: (self.network(x), {}), mixed, pictures & pictures[partner])
        parts["classification"] = _cross_entropy(logits, share * wanted + (1 - share) * wanted[partner])
        if bool(batch["has_mask"].any()) and (self.mask_heads is not None or self.recipe.guidance.beta > 0):
            # A mixed image would not fit its mask: the pixel losses see the images that have one as they are.
            parts |= self._guided(images[batch["has_mask"]], _masked_part(batch))[1]
        elif self.mask_heads is not None:
            parts["supervision"] = self.mask_heads.nothing()
        return parts

    def _taught(
        self, run: Callable[[Tensor], tuple[Tensor, Losses]], images: Tensor, picture: Tensor
    ) -> tuple[Tensor, Losses]:
        """Logits and losses that `run` gives of the images, and those against the teachers where there are any."""
        if self.lessons is None:
            return run(images)
        with stage_maps(self.network, (LAST_STAGE,)) as last:
            logits, parts = run(images)
        return logits, parts | self.lessons(images, logits, last[0], picture)

    def _guided(self, images: Tensor, batch: Sample) -> tuple[Tensor, Losses]:
        """Logits of JCS with the pixel losses: mask heads, and eq. 4 of the images that show a lesion."""
        if self.recipe.guidance.beta == 0:
            return self._with_heads(self.network, images, batch)
        if not isinstance(self.network, JCSClassifier):
            raise RecipeError("guidance needs the JCS classifier; set guidance.beta=0 for a baseline")
        with_map = partial(self.network.with_activation_map, relu=self.recipe.guidance.relu)
        (logits, am), parts = self._with_heads(with_map, images, batch)
        ill = _shows_lesion(batch)
        if bool(ill.any()):
            parts["guidance"] = self._map_loss(am[ill].float(), batch["mask"][ill])
        return logits, parts

    def _map_loss(self, am: Tensor, mask: Tensor) -> Tensor:
        """Eq. 4 of activation maps [N, h, w] against masks [N, 1, H, W]."""
        guidance = self.recipe.guidance
        if guidance.grid == "feature":
            mask = functional.adaptive_avg_pool2d(mask, spatial_size(am))
        at_mask = resize(am[:, None], spatial_size(mask))[:, 0]
        return segmentation_guided_loss(normalise_activation_map(at_mask), mask[:, 0], guidance.form)

    def _with_heads(
        self, run: Callable[[Tensor], Any], images: Tensor, batch: Sample
    ) -> tuple[Any, dict[str, Tensor]]:
        """What `run` gives of the images, and the loss of the mask heads where there are any."""
        if self.mask_heads is None:
            return run(images), {}
        with stage_maps(self.network, self.mask_heads.stages) as maps:
            output = run(images)
        return output, {"supervision": self.mask_heads.loss(maps, batch["mask"], batch["has_mask"])}

    def _wanted(self, batch: Sample) -> Tensor:
        """Wanted probabilities [N, 2] of JCS."""
        label, classes = self._shown_class(batch), self.recipe.classes
        positive = (label == 1).float()
        if classes.others is not None:
            positive = torch.where(label > 1, torch.full_like(positive, classes.others), positive)
        positive = positive * (1 - classes.smoothing) + classes.smoothing / 2
        return torch.stack([1 - positive, positive], dim=1)

    def _shown_class(self, batch: Sample) -> Tensor:
        """Labels [N]; a slice whose known lesions were all cropped away is healthy if the recipe says so."""
        if not self.recipe.classes.lesion_free:
            return batch["label"]
        gone = batch["has_mask"] & (batch["mask"].flatten(1).sum(1) == 0)
        return torch.where(gone, torch.zeros_like(batch["label"]), batch["label"])


def _lessons(network: nn.Module, recipe: Recipe, teachers: Teachers) -> Lessons:
    if recipe.task != "jcs-classifier" or not isinstance(network, JCSClassifier):
        raise RecipeError("distillation is for the JCS classifier; set distillation={} for others")
    return Lessons(teachers, network.encoder.channels[-1], recipe.distillation)


def _partly_known(
    lesion_logits: Tensor | None,
    class_logits: Tensor,
    label: Tensor,
    only_not_covid19: Tensor,
    smoothing: float,
) -> Tensor:
    """The loss of M3's slice network, mean over the slices.

    Of slices whose class is known `slice_loss` (without lesion logits the cross-entropy of the class), of the others
    -log(1 - p(COVID-19)), whatever else they show.
    """
    known, loss = ~only_not_covid19, class_logits.new_zeros(())
    if bool(known.any()):
        classes, wanted = class_logits[known], label[known]
        of_known = (
            functional.cross_entropy(classes, wanted, label_smoothing=smoothing)
            if lesion_logits is None
            else slice_loss(lesion_logits[known], classes, wanted, smoothing)
        )
        loss = loss + of_known * known.float().mean()
    if bool(only_not_covid19.any()):
        classes = class_logits[only_not_covid19]
        others = torch.cat(
            [classes[:, : PneumoniaClass.COVID19], classes[:, PneumoniaClass.COVID19 + 1 :]], dim=1
        )
        loss = loss + (classes.logsumexp(1) - others.logsumexp(1)).sum() / len(label)
    return loss


def _shows_lesion(batch: Sample) -> Tensor:
    """bool [N]: has a mask that is not empty; eq. 4 has no meaning without a lesion, since its map is scaled to 1."""
    return batch["has_mask"] & (batch["mask"].flatten(1).sum(1) > 0)


def _masked_part(batch: Sample) -> Sample:
    """The images of a batch that have a mask."""
    known = batch["has_mask"]
    return cast(Sample, {name: cast(Tensor, value)[known] for name, value in batch.items()})


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), wanted)


class PatientTraining(nn.Module):
    """The patient network with its loss; a batch is a list of patients with any number of slices each."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe

    def forward(self, batch: Sequence[tuple[Tensor, Tensor]], step: int) -> Losses:
        """batch: features [windows, n, D] and label [] per patient; a window is drawn per patient."""
        rng = np.random.default_rng([self.recipe.seed, step]) if self.training else None
        losses = []
        for features, label in batch:
            chosen = len(features) // 2 if rng is None else int(rng.integers(len(features)))
            losses.append(functional.cross_entropy(self.network(features[chosen])[None], label[None]))
        return {"loss": torch.stack(losses).mean()}


def partners(source: Tensor, rng: np.random.Generator, across_sources: bool) -> Tensor:
    """Whom every image of a batch is mixed with: a random permutation, int64 [N].

    With `across_sources` every image gets a random partner of another source where the batch has one.
    """
    permutation = rng.permutation(len(source))
    if across_sources:
        names = source.cpu().numpy()
        for place in range(len(names)):
            others = np.flatnonzero(names != names[place])
            if len(others):
                permutation[place] = rng.choice(others)
    return torch.from_numpy(permutation).to(source.device)
