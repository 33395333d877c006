"""An own model on a volume: sampled, run, brought back, decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import RunnerFailed
from engine.findings import ClassFinding, OwnModelFindings
from engine.label_volume import LabelVolume
from engine.lesions import key_slices
from engine.lungs import Mask, volume_ml
from engine.own_model.contract import GRAPH, OwnModelMetadata
from engine.own_model.deciding import Scores, labels_of, patient_classes, rule_words
from engine.own_model.grids import Grid, slice_grid, volume_grid
from engine.own_model.patches import averaged, patch_places
from engine.own_model.sampling import returned
from engine.own_model.tensors import classification_scores, input_tensor, segmentation_scores
from engine.own_model.views import stacked, volume_sampled, with_channels
from engine.packages import ModelPackage
from engine.runners.batches import Output, in_batches
from engine.runners.interface import Runner, Tensors
from engine.volume import Volume


@dataclass(frozen=True, eq=False)
class OwnModelSystem:
    """A package of type `onnx` with the runner of its graph. batch: slices or patches per call, as configured."""

    package: ModelPackage
    metadata: OwnModelMetadata
    runner: Runner
    batch: int

    @property
    def items_per_call(self) -> int:
        """What the package says; else what is configured, and one where its tensor has no batch dimension."""
        if "N" not in self.metadata.input_layout:
            return 1
        return self.metadata.preprocessing.batch or self.batch

    def scores(self, hu: npt.NDArray[np.floating]) -> Scores:
        """What `scores_each` gives for one array."""
        return next(self.scores_each([hu]))

    def scores_each(self, stacks: Iterable[npt.NDArray[np.floating]]) -> Iterator[Scores]:
        """Scores for each HU [N, C, (D,) H, W]: [N, C] of a classifier, [N, C, (D,) H, W] of a segmenter.

        Raises RunnerFailed, also where the output does not fit what the metadata say.
        """
        given: deque[tuple[int, tuple[int, ...]]] = deque()

        def tensors() -> Iterator[Tensors]:
            for hu in stacks:
                tensor = input_tensor(_filled(hu, self.metadata.preprocessing.batch), self.metadata)
                given.append((len(hu), tensor.shape))
                yield {self.metadata.input_name: tensor}

        for results in self.runner.run_each(GRAPH, tensors()):
            count, shape = given.popleft()
            output = Output(GRAPH, results)
            if self.metadata.task == "classification":
                filled = max(count, self.metadata.preprocessing.batch or 0)
                yield classification_scores(output, filled, self.metadata)[:count]
            else:
                yield segmentation_scores(output, shape, self.metadata)[:count]


def _filled(hu: npt.NDArray[np.floating], batch: int | None) -> npt.NDArray[np.floating]:
    """HU [N, ...] with the last item repeated up to a batch of fixed size, which some networks were exported with."""
    missing = (batch or 0) - len(hu)
    return hu if missing <= 0 else np.concatenate([hu, np.repeat(hu[-1:], missing, axis=0)])


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the network said. slice_scores: [Z, C] and which slices it saw; labels: [Z, Y, X]."""

    scores: Scores
    slice_scores: Scores | None = None
    labels: LabelVolume[np.uint8] | None = None


def screen_with(
    system: OwnModelSystem, volume: Volume, lungs: LabelVolume[np.bool_], with_lung: Mask
) -> OwnModelFindings:
    """Run an own model on a volume.

    lungs: [Z, Y, X]; with_lung: bool [Z], the slices that show enough of them. Raises RunnerFailed, its message
    naming the package, where the graph fails or gives what its metadata do not say.
    """
    metadata = system.metadata
    try:
        seen = (
            _volume(system, volume, lungs)
            if metadata.is_volume
            else _slices(system, volume, lungs, with_lung)
        )
    except RunnerFailed as error:
        if metadata.name in str(error):
            raise
        raise type(error)(f"{metadata.name}: {error}") from error
    if seen.labels is None:
        classes = patient_classes(seen.scores, metadata)
    else:
        if metadata.postprocessing.within == "lungs":
            _keep_within(seen.labels, lungs)
        classes = _measured(seen.labels, metadata, volume, lungs)
    return OwnModelFindings(
        package=system.package.reference,
        title=metadata.title,
        site=metadata.site.code,
        rule=rule_words(metadata),
        classes=classes,
        slice_scores=None if seen.slice_scores is None else _of_classes(seen.slice_scores, metadata),
        labels=seen.labels,
        key_slices=_key_slices(seen, metadata, lungs),
    )


def _keep_within(labels: LabelVolume[np.uint8], lungs: LabelVolume[np.bool_]) -> None:
    """Take out what is not in the lungs, in place."""
    for z in labels.occupied():
        labels[z] = labels[z] * lungs[z]


def _slices(system: OwnModelSystem, volume: Volume, lungs: LabelVolume[np.bool_], with_lung: Mask) -> _Seen:
    metadata = system.metadata
    grid = slice_grid(metadata, volume.geometry, volume.shape, lungs)
    wanted = (
        np.flatnonzero(with_lung) if metadata.preprocessing.slices == "lungs" else np.arange(len(volume.hu))
    )
    scores = np.zeros((len(volume.hu), metadata.channels), dtype=np.float32)
    labels = LabelVolume(volume.shape, np.uint8) if metadata.task == "segmentation" else None

    def each(batches: Iterable[npt.NDArray[np.intp]]) -> Iterator[Scores]:
        return system.scores_each(stacked(volume.hu, slices, grid, metadata) for slices in batches)

    for slices, given in in_batches(each, wanted, system.items_per_call):
        if labels is None:
            scores[slices] = given
            continue
        scores[slices] = given.max(axis=(2, 3))
        for z, plane in zip(slices, _in_slices(given, grid), strict=True):
            labels[z] = _whole_plane(labels_of(plane, metadata), grid, volume.shape)
    return _Seen(scores[wanted], scores, labels)


def _in_slices(scores: Scores, grid: Grid) -> Scores:
    """Scores [..., h, w] at the rows and columns of the series that the grid covers."""
    rows = returned(scores, grid.rows, scores.ndim - 2)
    return np.asarray(returned(rows, grid.columns, scores.ndim - 1), dtype=np.float32)


def _whole_plane(
    labels: npt.NDArray[np.uint8], grid: Grid, shape: tuple[int, int, int]
) -> npt.NDArray[np.uint8]:
    """Labels of the rows and columns that the grid covers in their slice [Y, X]."""
    plane = np.zeros(shape[1:], dtype=np.uint8)
    plane[grid.rows.covered, grid.columns.covered] = labels
    return plane


def _volume(system: OwnModelSystem, volume: Volume, lungs: LabelVolume[np.bool_]) -> _Seen:
    metadata = system.metadata
    grid = volume_grid(metadata, volume.geometry, volume.shape, lungs)
    hu = volume_sampled(volume.hu, grid)
    if metadata.task == "classification":
        return _Seen(system.scores(with_channels(hu[None], metadata)))
    if metadata.input.is_patch_data:
        dense = _patched(system, hu)
    else:
        dense = system.scores(with_channels(hu[None], metadata))[0]
    return _Seen(dense.max(axis=(1, 2, 3))[None], labels=_volume_labels(dense, grid, volume.shape, metadata))


def _patched(system: OwnModelSystem, hu: npt.NDArray[np.floating]) -> Scores:
    metadata = system.metadata
    patch = tuple(int(side) for side in metadata.sides)
    places = patch_places(hu.shape, patch, metadata.preprocessing.patch_overlap)

    def each(batches: Iterable[npt.NDArray[np.intp]]) -> Iterator[Scores]:
        return system.scores_each(
            with_channels(np.stack([hu[places[n]] for n in numbers]), metadata) for numbers in batches
        )

    scored = (
        (places[n], scores)
        for numbers, given in in_batches(each, np.arange(len(places)), system.items_per_call)
        for n, scores in zip(numbers, given, strict=True)
    )
    return averaged(scored, hu.shape, metadata.channels)


def _volume_labels(
    dense: Scores, grid: Grid, shape: tuple[int, int, int], metadata: OwnModelMetadata
) -> LabelVolume[np.uint8]:
    """Labels [Z, Y, X] from scores [C, D, H, W] on the grid, slice by slice."""
    labels = LabelVolume(shape, np.uint8)
    assert grid.slices is not None
    covered = grid.slices.covered
    for z, at in zip(range(covered.start, covered.stop), grid.slices.of_voxels(), strict=True):
        lower = int(at)
        upper, share = min(lower + 1, dense.shape[1] - 1), np.float32(at - lower)
        plane = dense[:, lower] + (dense[:, upper] - dense[:, lower]) * share
        labels[z] = _whole_plane(labels_of(_in_slices(plane, grid), metadata), grid, shape)
    return labels


def _measured(
    labels: LabelVolume[np.uint8], metadata: OwnModelMetadata, volume: Volume, lungs: LabelVolume[np.bool_]
) -> tuple[ClassFinding, ...]:
    """Volume, share of the lungs and mean HU of each class; each slice counts by its extent."""
    count = len(metadata.model_classes) + 1
    pixels, in_lungs, hu_sums = np.zeros((3, len(labels), count))
    for z in labels.occupied():
        plane = labels[z]
        pixels[z] = np.bincount(plane.ravel(), minlength=count)
        in_lungs[z] = np.bincount(plane[lungs[z]], minlength=count)
        hu_sums[z] = np.bincount(plane.ravel(), volume.hu[z].ravel(), minlength=count)
    lung_ml, extents = volume_ml(lungs.areas(), volume.geometry), volume.geometry.slice_extents
    findings = []
    for k, which in enumerate(metadata.model_classes, 1):
        ml = volume_ml(pixels[:, k], volume.geometry)
        findings.append(
            ClassFinding(
                which,
                ml > metadata.postprocessing.minimum_ml,
                volume_ml=ml,
                lung_percent=100 * volume_ml(in_lungs[:, k], volume.geometry) / lung_ml,
                mean_hu=float(extents @ hu_sums[:, k] / (extents @ pixels[:, k])) if ml else None,
            )
        )
    return tuple(findings)


def _of_classes(scores: Scores, metadata: OwnModelMetadata) -> Scores:
    return scores[:, [entry.channel for entry in metadata.classes]]


def _key_slices(seen: _Seen, metadata: OwnModelMetadata, lungs: LabelVolume[np.bool_]) -> tuple[int, ...]:
    lung_areas = lungs.areas()
    if seen.labels is not None:
        return key_slices(seen.labels.areas(), lung_areas)
    if seen.slice_scores is None:
        return key_slices(lung_areas)
    return key_slices(_of_classes(seen.slice_scores, metadata).max(axis=1).astype(np.float64), lung_areas)
