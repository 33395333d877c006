"""What a viewer calls a slice, so that who reads of it on a page finds it among the images.

The volume counts slices along their normal, mostly from feet to head; scanners mostly number images from head to feet.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from engine.volume import Volume


@dataclass(frozen=True)
class SliceNames:
    """Names of the slices of a volume. word: image, frame or slice. numbers: one per slice, none twice."""

    word: str
    numbers: tuple[int, ...]

    def name(self, z: int) -> str:
        """`image 264`."""
        return f"{self.word} {self.numbers[z]}"

    def span(self, first: int, last: int) -> str:
        """The numbers of the slices `first` to `last`, the lower one first: `230 to 264`."""
        low, high = sorted((self.numbers[first], self.numbers[last]))
        return f"{low} to {high}"


def slice_names(volume: Volume) -> SliceNames:
    """Instance Numbers (PS3.3 C.7.6.1), or frame numbers of a multi-frame CT; where these do not tell slices apart,
    the places in the volume, from 1."""
    if volume.sources[0].frame_number is not None:
        word, numbers = "frame", [source.frame_number for source in volume.sources]
    else:
        headers = (volume.headers[s.header] for s in volume.sources if s.header < len(volume.headers))
        word, numbers = "image", [_instance_number(header) for header in headers]
    known = tuple(number for number in numbers if number is not None)
    if len(set(known)) == len(volume.sources):
        return SliceNames(word, known)
    return SliceNames("slice", tuple(range(1, len(volume.sources) + 1)))


def _instance_number(header: Dataset) -> int | None:
    try:
        value = header.get("InstanceNumber")
        return None if value in (None, "") else int(str(value))
    except ValueError:  # no number, which the images of some archives have
        return None
