"""What every reader gives: items that point to one slice each, and what was noticed on the way.

Nothing here opens an image; `training.datasets.pixels` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]

CLASSES = ("healthy", "covid19", "h1n1", "cap")
"""Class names by label; JCS takes 0 and 1 and leaves the others out."""


class DatasetError(ValueError):
    """A data set that cannot be used as it is; one line with file and reason."""


@dataclass(frozen=True)
class Calibration:
    """How stored values become HU: value * slope + intercept.

    `exact` is False for pictures whose window is not known; their HU are only for display-like use, so that no
    threshold in HU (the lung crop) may be applied to them.
    """

    slope: float
    intercept: float
    exact: bool

    @property
    def stored_in_hu(self) -> bool:
        """Stored values are HU but for an offset, which 8 bits cannot hold."""
        return self.exact and self.slope == 1


HOUNSFIELD = Calibration(1.0, 0.0, True)
GREY_UNKNOWN_WINDOW = Calibration(1500 / 255, -1350.0, False)
"""8-bit pictures of unknown window, taken as if it were centre -600, width 1500."""


def grey_window(centre: float, width: float) -> Calibration:
    """8-bit grey 0..255 of a known lung window, in HU."""
    return Calibration(width / 255, centre - width / 2, True)


@dataclass(frozen=True)
class Plane:
    """One slice on disk: an image file, or slice `index` (feet to head) of a volume file or DICOM folder."""

    path: Path
    index: int | None = None


@dataclass(frozen=True)
class Item:
    """One slice.

    patient, series: ids within the source. index: slice number in the series. label: 0 healthy / not infected,
    1 COVID-19, 2 H1N1, 3 CAP, None unknown. lesion: whether this slice shows a lesion, None unknown. mask: lesion
    mask; `mask_labels` are the values that count as lesion, None is every value above 0. spacing: mm between
    rows, columns, where known (of a squeezed picture relative ones, so that their ratio gives its shape).
    lung_box: where the lungs of its series are (top, left, bottom, right, shares of the slice), where the source says.
    """

    source: str
    patient: str
    series: str
    index: int
    image: Plane
    calibration: Calibration
    label: int | None = None
    lesion: bool | None = None
    mask: Plane | None = None
    mask_labels: tuple[int, ...] | None = None
    split: Split | None = None
    spacing: tuple[float, float] | None = None
    lung_box: tuple[float, float, float, float] | None = None

    @property
    def name(self) -> str:
        """For messages: the file, and the slice in it."""
        return str(self.image.path) + ("" if self.image.index is None else f"[{self.image.index}]")


@dataclass(frozen=True)
class Problem:
    """Something noticed: `serious` keeps training from starting."""

    text: str
    count: int = 1
    serious: bool = False

    def __str__(self) -> str:
        return f"{'error' if self.serious else 'warning'}: {self.text}" + (
            f" ({self.count} times)" if self.count > 1 else ""
        )


@dataclass(frozen=True)
class Dataset:
    """Items of one source. `patients_known`: the source says who is who (else patients are guessed)."""

    name: str
    items: tuple[Item, ...]
    patients_known: bool = True
    problems: tuple[Problem, ...] = ()

    def of(self, split: Split) -> tuple[Item, ...]:
        """The items of a split."""
        return tuple(item for item in self.items if item.split == split)


@dataclass
class Notes:
    """Collects problems while reading, counting repeated ones."""

    _warnings: Counter[str] = field(default_factory=Counter)
    _errors: Counter[str] = field(default_factory=Counter)

    def warn(self, text: str, count: int = 1) -> None:
        """Note something that training can live with."""
        self._warnings[text] += count

    def fail(self, text: str) -> None:
        """Note something that keeps training from starting."""
        self._errors[text] += 1

    def problems(self) -> tuple[Problem, ...]:
        """Errors first."""
        errors = [Problem(text, count, serious=True) for text, count in self._errors.items()]
        return (*errors, *(Problem(text, count) for text, count in self._warnings.items()))


def joined(datasets: Iterable[Dataset]) -> Dataset:
    """Several data sets as one; patients are kept apart by their source."""
    parts = tuple(datasets)
    return Dataset(
        name=" + ".join(part.name for part in parts),
        items=tuple(item for part in parts for item in part.items),
        patients_known=all(part.patients_known for part in parts),
        problems=tuple(problem for part in parts for problem in part.problems),
    )
