"""An own model on a volume: sampled, run, brought back, decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import RunnerFailed
from engine.findings import ClassFinding, OwnModelFindings
from engine.lesions import key_slices
from engine.lungs import Mask, lung_volume_ml
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
    """What the network said. slice_scores: [Z, C] and which slices it saw; labels: uint8 [Z, Y, X]."""

    scores: Scores
    slice_scores: Scores | None = None
    labels: npt.NDArray[np.uint8] | None = None


def screen_with(system: OwnModelSystem, volume: Volume, lungs: Mask, with_lung: Mask) -> OwnModelFindings:
    """Run an own model on a volume.

    lungs: bool [Z, Y, X]; with_lung: bool [Z], the slices that show enough of them. Raises RunnerFailed, its message
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
            seen.labels[~lungs] = 0
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


def _slices(system: OwnModelSystem, volume: Volume, lungs: Mask, with_lung: Mask) -> _Seen:
    metadata = system.metadata
    grid = slice_grid(metadata, volume.geometry, volume.shape, lungs)
    wanted = (
        np.flatnonzero(with_lung) if metadata.preprocessing.slices == "lungs" else np.arange(len(volume.hu))
    )
    scores = np.zeros((len(volume.hu), metadata.channels), dtype=np.float32)
    labels = np.zeros(volume.shape, dtype=np.uint8) if metadata.task == "segmentation" else None

    def each(batches: Iterable[npt.NDArray[np.intp]]) -> Iterator[Scores]:
        return system.scores_each(stacked(volume.hu, slices, grid, metadata) for slices in batches)

    for slices, given in in_batches(each, wanted, system.items_per_call):
        if labels is None:
            scores[slices] = given
            continue
        scores[slices] = given.max(axis=(2, 3))
        rows, columns = _covered(grid)
        placed = labels_of(np.moveaxis(_in_slices(given, grid), 1, 0), metadata)
        labels[slices[:, None, None], rows, columns] = placed
    return _Seen(scores[wanted], scores, labels)


def _in_slices(scores: Scores, grid: Grid) -> Scores:
    """Scores [..., h, w] at the rows and columns of the series that the grid covers."""
    rows = returned(scores, grid.rows, scores.ndim - 2)
    return np.asarray(returned(rows, grid.columns, scores.ndim - 1), dtype=np.float32)


def _covered(grid: Grid) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Index arrays of the rows and columns that the grid covers, to be used together."""
    rows, columns = grid.rows.covered, grid.columns.covered
    return np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)[None]


def _volume(system: OwnModelSystem, volume: Volume, lungs: Mask) -> _Seen:
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
) -> npt.NDArray[np.uint8]:
    """uint8 [Z, Y, X] from scores [C, D, H, W] on the grid, slice by slice."""
    labels = np.zeros(shape, dtype=np.uint8)
    assert grid.slices is not None
    covered = grid.slices.covered
    rows, columns = _covered(grid)
    for z, at in zip(range(covered.start, covered.stop), grid.slices.of_voxels(), strict=True):
        lower = int(at)
        upper, share = min(lower + 1, dense.shape[1] - 1), np.float32(at - lower)
        plane = dense[:, lower] + (dense[:, upper] - dense[:, lower]) * share
        labels[z, rows, columns] = labels_of(_in_slices(plane, grid), metadata)
    return labels


def _measured(
    labels: npt.NDArray[np.uint8], metadata: OwnModelMetadata, volume: Volume, lungs: Mask
) -> tuple[ClassFinding, ...]:
    """Volume, share of the lungs and mean HU of each class."""
    lung_ml = lung_volume_ml(lungs, volume.geometry)
    findings = []
    for k, which in enumerate(metadata.model_classes, 1):
        mask = labels == k
        ml = lung_volume_ml(mask, volume.geometry)
        findings.append(
            ClassFinding(
                which,
                ml > metadata.postprocessing.minimum_ml,
                volume_ml=ml,
                lung_percent=100 * lung_volume_ml(mask & lungs, volume.geometry) / lung_ml,
                mean_hu=float(volume.hu[mask].mean()) if ml else None,
            )
        )
    return tuple(findings)


def _of_classes(scores: Scores, metadata: OwnModelMetadata) -> Scores:
    return scores[:, [entry.channel for entry in metadata.classes]]


def _key_slices(seen: _Seen, metadata: OwnModelMetadata, lungs: Mask) -> tuple[int, ...]:
    lung_areas = np.count_nonzero(lungs, axis=(1, 2)).astype(np.float64)
    if seen.labels is not None:
        return key_slices(np.count_nonzero(seen.labels, axis=(1, 2)).astype(np.float64), lung_areas)
    if seen.slice_scores is None:
        return key_slices(lung_areas)
    return key_slices(_of_classes(seen.slice_scores, metadata).max(axis=1).astype(np.float64), lung_areas)
