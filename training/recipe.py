"""Recipes: every choice of a training in one readable file, checked, with overrides from the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TaskName = Literal["jcs-classifier", "jcs-segmenter", "jcs-joint", "m3-slice", "m3-patient"]

LungScope = Literal["slice", "volume"]
"""Which lungs a box is of: those of each slice by itself, as M3Lung-Sys prints it (D.1), or of the series."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


class RecipeError(ValueError):
    """A recipe that cannot be used: which key, what is wrong with it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Image(_Section):
    """From a slice to the network's input. `centre` and `width` in HU are drawn between their two values.

    `lung_crop`: the lung box in place of the whole slice. `lung_scope`: `slice` finds it in each slice by itself, as
    printed; `volume` takes the box of the whole series. A package of M3Lung-Sys is served as it was trained. A box that
    the data set names is that of the series, and free views take it in any case.
    `pictures_squeezed` (with free views): of pictures of unknown window the same share of both sides is seen, squeezed,
    rather than a square: most are wider than high, and a square of them lacks the sides of the lungs.
    """

    size: Count
    shorter_side: Count | None = None
    centre: tuple[float, float]
    width: tuple[Positive, Positive]
    lung_crop: bool = False
    lung_margin: Annotated[int, Field(ge=0)] = 10
    lung_scope: LungScope = "slice"
    pictures_squeezed: bool = False

    @property
    def middle_window(self) -> tuple[float, float]:
        """Centre and width in HU in the middle of what is drawn: the window without augmentation."""
        return sum(self.centre) / 2, sum(self.width) / 2

    @property
    def three_centres(self) -> tuple[float, float, float]:
        """Window centres of M3Lung-Sys at inference in HU: the middle and the ends of what training draws (D.1)."""
        return self.centre[0], sum(self.centre) / 2, self.centre[1]


class Augmentation(_Section):
    """The papers': `flip`: share of mirrored slices. `random_crop`: of the resized picture, else centred.
    `border_crop`: largest part of the width cut from each border, in `border_crop_share` of the slices.

    With `free_view` a random rectangle is seen instead of the last two: a part of the crop with sides of a share from
    `zoom`, each up to `stretch` (natural logarithm) off; in `whole_share` of the slices a part of the whole slice;
    of a lung box every edge is moved by up to `edges` of its side. It is turned by up to `turn` degrees and
    bent by `bend` of half its side. Then the scanner varies: white or correlated `noise` up to so many HU, in
    `kernel_share` of the slices a reconstruction kernel from `kernel` (-1 is blurred, 0 as it is), an
    `offset` in HU (standard deviation), a contrast `gain` up to this share.
    """

    flip: Share = 0.0
    random_crop: bool = False
    border_crop: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    border_crop_share: Share = 0.0
    free_view: bool = False
    zoom: tuple[Positive, Positive] = (1.0, 1.0)
    stretch: NotNegative = 0.0
    whole_share: Share = 0.0
    edges: Annotated[float, Field(ge=0, lt=0.25)] = 0.0
    turn: NotNegative = 0.0
    bend: NotNegative = 0.0
    noise: NotNegative = 0.0
    kernel: tuple[float, float] = (0.0, 0.0)
    kernel_share: Share = 0.6
    offset: NotNegative = 0.0
    gain: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Optimiser(_Section):
    """`rate` is the peak learning rate. `clip`: largest gradient norm, None for no limit."""

    name: Literal["sgd", "adam", "adamw"]
    rate: Positive
    momentum: Share = 0.9
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive | None = None


class Schedule(_Section):
    """`step`: rate * factor per `every_epochs`. `poly`: rate * (1 - t)^power. `cosine`: up in `warmup`
    iterations, then down to 0. `warmup`: iterations from a tenth of the rate. `onecycle`: up from a tenth in the
    share `rise` of the iterations, then down to a thousandth, both along a cosine."""

    name: Literal["constant", "step", "poly", "cosine", "onecycle"] = "constant"
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.1
    every_epochs: Count = 30
    factor: Positive = 0.1
    power: Positive = 0.9
    warmup: Annotated[int, Field(ge=0)] = 0


class Mixup(_Section):
    """Image mixing of JCS eq. 3; alpha 0 is none."""

    alpha: Annotated[float, Field(ge=0)] = 0.0
    across_sources: bool = False


class Guidance(_Section):
    """Segmentation-guided loss of JCS eq. 4, weighted by `beta`; for M3Lung-Sys the same of its location map.

    `grid`: JCS's map is compared at the size of the `mask`, or at that of the `feature` map with the mask averaged.
    """

    beta: Annotated[float, Field(ge=0)] = 0.0
    form: Literal["paper", "mse"] = "paper"
    relu: Literal["per_channel", "sum"] = "per_channel"
    grid: Literal["mask", "feature"] = "mask"


class Dice(_Section):
    """JCS eq. 6: factor 1 as printed, 2 as usual."""

    factor: Positive = 1.0
    reduction: Literal["image", "batch"] = "image"


class Supervision(_Section):
    """Pixel supervision of a classifier: 1 x 1 mask heads on the encoder's `stages` (2 and 3 are strides 8 and
    16), which are dropped after the training. Their loss is weighted by `weight`; 0 is none."""

    weight: NotNegative = 0.0
    stages: tuple[Annotated[int, Field(ge=1, le=4)], ...] = (2, 3)


class Distillation(_Section):
    """What a JCS classifier learns from `teachers`, outputs of other jcs-classifier trainings; none is none.

    `weight` of its answers against theirs (their mean) on the same view, both softened by `temperature`.
    `pictures_only`: not on slices in HU, for teachers that saw pictures alone. `hints`: weight of reading the teachers'
    last feature maps from its own, on every slice.
    """

    teachers: tuple[Path, ...] = ()
    weight: NotNegative = 1.0
    temperature: Positive = 2.0
    pictures_only: bool = False
    hints: NotNegative = 0.0


class Classes(_Section):
    """What a classifier is told of a slice.

    `lesion_free`: slices of ill patients that are known to show no lesion are healthy ones, else they are
    left out; so is a slice whose known lesions were all cropped away. `others`: wanted probability of COVID-19 on
    slices of other pneumonias for JCS, None leaves them out. `only_not_covid19`: names of data sets whose slices
    without COVID-19 may show another disease; M3's slice network learns of those no more than that. `smoothing`:
    of the wanted probabilities.
    """

    lesion_free: bool = False
    others: Share | None = None
    only_not_covid19: tuple[str, ...] = ()
    smoothing: Share = 0.0


class Start(_Section):
    """Start weights: `encoder` a file of ImageNet weights, "fetch", or "installed" (of baselines whose weights are a
    Python package); the others outputs of trainings, `training` of one of the same network to go on from."""

    encoder: str | None = None
    segmenter: Path | None = None
    classifier: Path | None = None
    slice: Path | None = None
    training: Path | None = None


class Recipe(_Section):
    """A training. Either `epochs` or `iterations` says how long.

    `shares`: what batches are drawn from, by "SOURCE/class", e.g. {"COVID-CT/covid19": 3.8}; slices of other
    groups are left out. Empty: every slice once an epoch. `without`: patients whose slices are not trained on.
    `average`: decay of a moving average of the weights, which is then what the training leaves; None is none.
    """

    task: TaskName
    network: dict[str, Any] = {}
    start: Start = Start()
    image: Image
    augmentation: Augmentation = Augmentation()
    batch: Count
    epochs: Count | None = None
    iterations: Count | None = None
    optimiser: Optimiser
    schedule: Schedule = Schedule()
    mixup: Mixup = Mixup()
    guidance: Guidance = Guidance()
    dice: Dice = Dice()
    supervision: Supervision = Supervision()
    distillation: Distillation = Distillation()
    classes: Classes = Classes()
    shares: dict[str, NotNegative] = {}
    without: tuple[str, ...] = ()
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: int = 0
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give either epochs or iterations")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Iterations of the whole training."""
        return self.iterations if self.iterations is not None else (self.epochs or 0) * steps_per_epoch

    def rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of iteration `step`, counted from 0."""
        schedule, total = self.schedule, self.total_steps(steps_per_epoch)
        factor = 1.0
        if schedule.name == "step":
            factor = schedule.factor ** (step // steps_per_epoch // schedule.every_epochs)
        elif schedule.name == "poly":
            factor = (1 - step / total) ** schedule.power
        elif schedule.name == "cosine":
            done = max(0, step - schedule.warmup) / max(1, total - schedule.warmup)
            factor = (1 + math.cos(math.pi * done)) / 2
        elif schedule.name == "onecycle":
            factor = _one_cycle(step, total, schedule.rise)
        if step < schedule.warmup:
            factor *= 0.1 + 0.9 * step / schedule.warmup
        return self.optimiser.rate * factor


def _one_cycle(step: int, total: int, rise: float) -> float:
    """Share of the peak at `step`, as `torch.optim.lr_scheduler.OneCycleLR` with factors 10 and 100."""
    top, last = rise * total - 1, total - 1
    if step <= top:
        low, done = 0.1, step / top
    else:
        low, done = 0.001, 1 - (step - top) / max(last - top, 1e-9)
    return low + (1 - low) * (1 - math.cos(math.pi * done)) / 2


def built_in_recipes() -> tuple[str, ...]:
    """Names of the recipes that come along: the papers', and `compact/NAME` of the packages in `models/`."""
    home = resources.files("training.recipes")
    found = [("", f) for f in home.iterdir()] + [("compact/", f) for f in (home / "compact").iterdir()]
    return tuple(sorted(at + f.name.removesuffix(".yaml") for at, f in found if f.name.endswith(".yaml")))


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """A built-in recipe by name, or one from a YAML file, with overrides `key.sub=value` (values in YAML).

    Raises RecipeError naming the key.
    """
    content = _yaml(_text(name_or_path), f"recipe {name_or_path}")
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {name_or_path} is no mapping")
    for override in overrides:
        _apply(content, override)
    return parse_recipe(content, name_or_path)


def parse_recipe(content: dict[str, Any], name: str) -> Recipe:
    """The recipe of a mapping; `name` is for messages. Raises RecipeError."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise RecipeError(f"recipe {name}: {key}: {first['msg']}") from error


def _text(name_or_path: str) -> str:
    if name_or_path in built_in_recipes():
        return (resources.files("training.recipes") / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise RecipeError(
            f"recipe {name_or_path} is neither a file nor one of {', '.join(built_in_recipes())}"
        )
    return path.read_text(encoding="utf-8")


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is no YAML: {' '.join(str(error).split())}") from error


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"override {override!r} must be key=value")
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise RecipeError(f"override {override!r}: {parent} is no section")
    section[last] = _yaml(value, f"override {override!r}")
    if key == "epochs":
        content.pop("iterations", None)
    if key == "iterations":
        content.pop("epochs", None)
