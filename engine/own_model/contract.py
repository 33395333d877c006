"""metadata.json of an own model: what the tensors are, in the words of MONAI bundles, and what MONAI leaves open.

`network_data_format` is MONAI's (https://docs.monai.io/en/stable/mb_specification.html): names, channels, spatial
shape, types. Window, spacing, crop, activation, classes, codes and the patient rule are this project's.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from engine.findings import ModelClass
from engine.own_model.codes import CheckedCode, CodeEntry, ascii_text
from engine.package_contract import Metadata, Probability, Section

GRAPH = "model"
"""The one graph of such a package."""

PALETTE = ((230, 90, 60), (90, 140, 230), (120, 190, 80), (190, 110, 210), (230, 180, 60), (70, 190, 190))
"""Colours of classes that name none, in their order."""

LUNG = CodeEntry(value="39607008", scheme="SCT", meaning="Lung")
ABNORMAL = CodeEntry(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")

Task = Literal["segmentation", "classification"]
_TASKS: dict[str, Task] = {
    "segmentation": "segmentation",
    "labels": "segmentation",
    "classification": "classification",
    "classes": "classification",
    "probabilities": "classification",
}


def _side(value: int | str) -> int | str:
    if isinstance(value, int):
        if 1 <= value <= 4096:
            return value
    elif value == "*" or re.fullmatch(r"[1-9]\d{0,3}\*n", value):
        return value
    raise ValueError(
        f"{value!r} is no side of a tensor; allowed are a number, '*' and multiples such as '16*n'"
    )


Side = Annotated[int | str, AfterValidator(_side)]


class TensorFormat(Section):
    """What MONAI says of an input or an output, as far as it is used here."""

    onnx_name: str | None = None
    num_channels: Annotated[int, Field(ge=1, le=64)] = 1
    spatial_shape: tuple[Side, ...] = ()
    layout: Annotated[str, StringConstraints(pattern=r"^[NCDHW]{2,5}$")] | None = None


class InputFormat(TensorFormat):
    """The input. Without `hu_windows` it gets Hounsfield units, else each window mapped to `value_range`."""

    modality: str = "CT"
    dtype: Literal["float32", "float16", "int16", "int32", "uint8"] = "float32"
    value_range: tuple[float, float] = (0.0, 1.0)
    is_patch_data: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> InputFormat:
        if self.modality != "CT":
            raise ValueError(f"modality {self.modality!r}: only CT is screened")
        if len(self.spatial_shape) not in (2, 3):
            raise ValueError("spatial_shape has 2 sides for a network of slices and 3 for one of volumes")
        if self.is_patch_data and not all(isinstance(side, int) for side in self.spatial_shape):
            raise ValueError("is_patch_data: the sides of a patch are numbers")
        if self.is_patch_data and len(self.spatial_shape) == 2:
            raise ValueError("is_patch_data: only volumes are cut into patches")
        if self.value_range[0] >= self.value_range[1]:
            raise ValueError("value_range is [lowest, highest]")
        return self


class OutputFormat(TensorFormat):
    """The output. format: what it is; of the same size as the input where it is a segmentation."""

    format: Literal["segmentation", "labels", "classification", "classes", "probabilities"]

    @property
    def task(self) -> Task:
        return _TASKS[self.format]


class NetworkDataFormat(Section):
    """One input and one output, by name."""

    inputs: Annotated[dict[str, InputFormat], Field(min_length=1, max_length=1)]
    outputs: Annotated[dict[str, OutputFormat], Field(min_length=1, max_length=1)]


class Preprocessing(Section):
    """From the volume to the tensor.

    crop: `whole`; `centre`, the centred square of `crop_fraction` times the shorter side; `lungs`, their box in the
        series with `crop_margin` pixels, for volumes from the first to the last slice with lung.
    spacing_mm: resampled to so many mm between (slices, rows, columns); between (rows, columns) for slices. Then
        the tensor is cut or padded to `spatial_shape`. Without it the crop is stretched onto `spatial_shape`.
    hu_windows: [lowest, highest] HU, mapped to `value_range` and clipped: one for all channels, or one each.
    mean, std: subtracted and divided by afterwards, one for all channels or one each.
    channels: `same`, every channel gets the slice; `neighbours`, the slice is the middle channel.
    slices: which slices a network of slices is given.
    batch: slices or patches per call where the network was exported with a fixed number; None: as configured.
    orientation: where columns, rows and slices lead, such as LPS (DICOM's axial) or RAS; None: as in the series.
    """

    crop: Literal["whole", "centre", "lungs"] = "whole"
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    crop_margin: Annotated[int, Field(ge=0, le=200)] = 10
    spacing_mm: tuple[Annotated[float, Field(ge=0.1, le=20)], ...] | None = None
    hu_windows: tuple[tuple[float, float], ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    channels: Literal["same", "neighbours"] = "same"
    slices: Literal["lungs", "all"] = "lungs"
    orientation: Annotated[str, StringConstraints(pattern=r"^[LR][PA][SI]$")] | None = None
    patch_overlap: Annotated[float, Field(ge=0, lt=1)] = 0.25
    batch: Annotated[int, Field(ge=1, le=256)] | None = None

    @model_validator(mode="after")
    def _windows_open(self) -> Preprocessing:
        if any(low >= high for low, high in self.hu_windows):
            raise ValueError("hu_windows are [lowest HU, highest HU]")
        return self


class PatientRule(Section):
    """How slices make a patient: the largest score, the mean score, or more than `count` slices above threshold."""

    rule: Literal["max", "mean", "count"] = "max"
    count: Annotated[int, Field(ge=0)] = 0


class Postprocessing(Section):
    """From the output to the classes.

    activation: what is still to be done to it; `labels`: the output holds channel numbers.
    decision: `threshold`, a class counts above its own; `highest`, the channel with the largest score counts.
    minimum_ml: a segmented class is found when its volume is above this.
    within: `lungs` drops what is segmented outside of the lungs.
    """

    activation: Literal["none", "sigmoid", "softmax", "labels"] = "none"
    decision: Literal["threshold", "highest"] | None = None
    patient: PatientRule = PatientRule()
    minimum_ml: Annotated[float, Field(ge=0)] = 0.0
    within: Literal["everything", "lungs"] = "everything"

    @property
    def takes_highest(self) -> bool:
        """Whether channels exclude each other; so unless said otherwise where they do by their making."""
        return (self.decision or _DECISIONS[self.activation]) == "highest"


_DECISIONS = {"none": "threshold", "sigmoid": "threshold", "softmax": "highest", "labels": "highest"}


class ClassEntry(Section):
    """A class that is reported. Channels without one (background, normal) are not."""

    channel: Annotated[int, Field(ge=0)]
    key: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    code: CheckedCode
    category: CheckedCode = ABNORMAL
    color: tuple[Annotated[int, Field(ge=0, le=255)], ...] | None = Field(None, min_length=3, max_length=3)
    threshold: Probability = 0.5


class OwnModelMetadata(Metadata):
    """metadata.json of a package of type `onnx`."""

    system: Literal["onnx"]
    title: Annotated[str, ascii_text(1, 40)]
    site: CheckedCode = LUNG
    network_data_format: NetworkDataFormat
    preprocessing: Preprocessing = Preprocessing()
    postprocessing: Postprocessing = Postprocessing()
    classes: Annotated[tuple[ClassEntry, ...], Field(min_length=1, max_length=32)]

    @model_validator(mode="after")
    def _fits_together(self) -> OwnModelMetadata:
        sides = len(self.input.spatial_shape)
        if self.preprocessing.spacing_mm is not None and len(self.preprocessing.spacing_mm) != sides:
            raise ValueError(f"preprocessing.spacing_mm has {sides} numbers, one for each side of the input")
        for name in ("hu_windows", "mean", "std"):
            if len(getattr(self.preprocessing, name)) not in (0, 1, self.input.num_channels):
                raise ValueError(f"preprocessing.{name} has one item, or one for each input channel")
        _check_layout("inputs", self.input_layout, self.is_volume, self.input.num_channels)
        if self.task == "segmentation":
            _check_layout("outputs", self.output_layout, self.is_volume, self.output_channels)
        if self.preprocessing.channels == "neighbours" and (
            self.is_volume or self.input.num_channels % 2 == 0
        ):
            raise ValueError("preprocessing.channels: neighbours is for slices and an odd number of channels")
        _check_classes(self.classes, self.channels)
        return self

    @property
    def input(self) -> InputFormat:
        return next(iter(self.network_data_format.inputs.values()))

    @property
    def output(self) -> OutputFormat:
        return next(iter(self.network_data_format.outputs.values()))

    @property
    def input_name(self) -> str:
        """The input's name in the graph."""
        return self.input.onnx_name or next(iter(self.network_data_format.inputs))

    @property
    def output_name(self) -> str:
        """The output's name in the graph."""
        return self.output.onnx_name or next(iter(self.network_data_format.outputs))

    @property
    def task(self) -> Task:
        return self.output.task

    @property
    def is_volume(self) -> bool:
        return len(self.input.spatial_shape) == 3

    @property
    def input_layout(self) -> str:
        """The input's dimensions by letter: N batch, C channel, D slices, H rows, W columns."""
        return self.input.layout or ("NCDHW" if self.is_volume else "NCHW")

    @property
    def sides(self) -> tuple[int | str, ...]:
        """The sides of the input for slices (of volumes only), rows and columns, whatever its layout."""
        spatial = [letter for letter in self.input_layout if letter in "DHW"]
        return tuple(self.input.spatial_shape[spatial.index(letter)] for letter in "DHW" if letter in spatial)

    @property
    def output_layout(self) -> str:
        """The dimensions of a segmentation; those of the input unless said otherwise."""
        return self.output.layout or self.input_layout

    @property
    def output_channels(self) -> int:
        """Channels of the output tensor; one where it holds labels."""
        return 1 if self.postprocessing.activation == "labels" else self.output.num_channels

    @property
    def channels(self) -> int:
        """Channels of the scores."""
        return self.output.num_channels

    @property
    def screening_graphs(self) -> tuple[str, ...]:
        """The graphs without which a package cannot screen."""
        return (GRAPH,)

    @property
    def model_classes(self) -> tuple[ModelClass, ...]:
        """The reported classes, in order."""
        return tuple(
            ModelClass(
                entry.key, entry.code.code, entry.category.code, _color(entry, PALETTE[i % len(PALETTE)])
            )
            for i, entry in enumerate(self.classes)
        )


def _color(entry: ClassEntry, default: tuple[int, int, int]) -> tuple[int, int, int]:
    if entry.color is None:
        return default
    red, green, blue = entry.color
    return red, green, blue


def _check_layout(where: str, layout: str, is_volume: bool, channels: int) -> None:
    spatial = {"D", "H", "W"} if is_volume else {"H", "W"}
    if len(set(layout)) != len(layout) or set(layout) - {"N", "C"} != spatial:
        raise ValueError(f"{where}: layout {layout} does not have {', '.join(sorted(spatial))} once each")
    if "C" not in layout and channels > 1:
        raise ValueError(f"{where}: layout {layout} has no C for {channels} channels")


def _check_classes(classes: tuple[ClassEntry, ...], channels: int) -> None:
    for name in ("key", "channel"):
        values = [getattr(entry, name) for entry in classes]
        if len(set(values)) < len(values):
            raise ValueError(f"classes: each {name} is allowed once")
    for entry in classes:
        if entry.channel >= channels:
            raise ValueError(
                f"classes: {entry.key} is channel {entry.channel}, and the output has {channels}"
            )
