"""What is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from training.datasets.items import CLASSES, Dataset, DatasetError, Item, Notes, Problem
from training.datasets.pixels import Stored, decode_volume, read_mask

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
"""Pillow's names of pictures of more than 8 bits."""

ReadVolume = Callable[[Path], Stored]
"""Gives the slices of a volume as stored, [Z, H, W]; raises DatasetError."""


@dataclass(frozen=True)
class Report:
    """Counts of items and patients per class and split, and the problems, errors first."""

    name: str
    items: Counter[tuple[str, str]]
    patients: Counter[tuple[str, str]]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What keeps training from starting."""
        return tuple(p for p in self.problems if p.serious)


def check(dataset: Dataset, read_volume: ReadVolume = decode_volume) -> Report:
    """Open every picture, volume and mask, and compare classes, sizes, values and splits."""
    notes = Notes()
    for item in dataset.items:
        _check_files(item, notes)
    _check_volumes(dataset, read_volume, notes)
    _check_patients(dataset, notes)
    found = {item.label for item in dataset.items}
    if found == {None}:
        notes.warn(f"{dataset.name}: no item has a label")
    elif len(found) == 1 and not any(item.mask for item in dataset.items):
        notes.warn(f"{dataset.name}: all items are of one class, {_class_name(found.pop())}")
    keys = [(_class_name(item.label), item.split or "no split") for item in dataset.items]
    whose = {(key, item.source, item.patient) for key, item in zip(keys, dataset.items, strict=True)}
    problems = sorted((*dataset.problems, *notes.problems()), key=lambda p: not p.serious)
    return Report(dataset.name, Counter(keys), Counter(key for key, *_ in whose), tuple(problems))


def require(dataset: Dataset, read_volume: ReadVolume = decode_volume) -> None:
    """Refuse a data set that is empty or has errors. Raises DatasetError in one line."""
    if not dataset.items:
        raise DatasetError(f"{dataset.name}: nothing to train on")
    errors = check(dataset, read_volume).errors
    if errors:
        more = f"; {len(errors) - 1} more, see `lungnode datasets check`" if len(errors) > 1 else ""
        raise DatasetError(f"{errors[0].text}{more}")


def require_kinds(
    dataset: Dataset,
    *,
    classes: Collection[int] = (),
    distinct: int = 1,
    masks: bool = False,
    hu: bool = False,
) -> None:
    """Refuse a data set that lacks what a network learns from. Raises DatasetError in one line.

    Args:
        classes: labels that must all occur.
        distinct: how many different labels must occur.
        masks: some item must have a mask; then labels are not asked for.
        hu: every item must be calibrated to HU (the lung crop needs it).
    """
    if masks and not any(item.mask for item in dataset.items):
        raise DatasetError(f"{dataset.name}: no item has a lesion mask")
    missing = set(classes) - {item.label for item in dataset.items}
    if missing:
        raise DatasetError(f"{dataset.name}: no item of class {', '.join(map(_class_name, sorted(missing)))}")
    found = {item.label for item in dataset.items} - {None}
    if not masks and len(found) < distinct:
        raise DatasetError(
            f"{dataset.name}: only class {', '.join(map(_class_name, found))}, needs {distinct} classes"
        )
    grey = next((item for item in dataset.items if not item.calibration.exact), None)
    if hu and grey is not None:
        raise DatasetError(f"{grey.name}: an 8-bit picture of unknown window, but HU are needed here")


def _check_files(item: Item, notes: Notes) -> None:
    """The picture of an item that stands alone, and its mask."""
    if item.image.index is not None:
        return
    try:
        with Image.open(item.image.path) as picture:
            size, deep = (picture.height, picture.width), picture.mode in DEEP_MODES
            # A PNG's checksums tell as much as its pixels; what other formats lack shows when they are decoded.
            if picture.format == "PNG":
                picture.verify()
            else:
                picture.load()
    except FileNotFoundError:
        notes.fail(f"{item.image.path} is missing")
        return
    except (OSError, SyntaxError, ValueError):
        notes.fail(f"{item.image.path} cannot be read as a picture")
        return
    if item.calibration.stored_in_hu and not deep:
        notes.fail(f"{item.image.path} is an 8-bit picture, but said to hold HU; say its window instead")
    if item.mask is not None and item.mask.index is None:
        _check_mask_picture(item, item.mask.path, size, notes)


def _check_mask_picture(item: Item, path: Path, size: tuple[int, int], notes: Notes) -> None:
    try:
        mask = read_mask(path)
    except DatasetError as error:
        notes.fail(str(error))
        return
    if mask.shape != size:
        notes.fail(f"{path} is {mask.shape}, its picture {size}")
        return
    _check_mask_values(item, mask, notes)


def _check_volumes(dataset: Dataset, read_volume: ReadVolume, notes: Notes) -> None:
    """Every volume and mask volume once. Folders of DICOM files were decoded when the data set was read."""
    once: dict[tuple[Path, Path | None], Item] = {}
    for item in dataset.items:
        if item.image.index is not None and item.image.path.suffix != ".npy":
            once.setdefault((item.image.path, None if item.mask is None else item.mask.path), item)
    for (image, mask), item in once.items():
        try:
            if not image.is_dir():
                read_volume(image)
            if mask is not None:
                _check_mask_values(item, read_volume(mask), notes)
        except DatasetError as error:
            notes.fail(str(error))


def _check_mask_values(item: Item, mask: Stored, notes: Notes) -> None:
    if item.mask_labels is None and bool(((mask != 0) & (mask != 1)).any()):
        notes.warn(
            f"{item.source}: masks have other values than 0 and 1; every value above 0 counts as lesion"
        )
    if not mask.any():
        notes.warn(f"{item.source}: masks are empty")


def _check_patients(dataset: Dataset, notes: Notes) -> None:
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for item in dataset.items:
        if item.split is not None:
            splits[item.source, item.patient].add(item.split)
    for (source, patient), found in splits.items():
        if len(found) < 2:
            continue
        where = " and ".join(sorted(found))
        if dataset.patients_known:
            notes.fail(f"{source}: patient {patient} is in {where}")
        else:
            notes.warn(f"{source}: slices that share a name's beginning are in more than one split")


def _class_name(label: int | None) -> str:
    return "no label" if label is None else CLASSES[label]
