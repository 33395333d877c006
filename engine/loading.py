"""From the files of a study to the Volume that is screened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.arriving import ArrivingVolume
from engine.decoding import decode_frames
from engine.errors import NotScreenable
from engine.headers import FrameHeader, StudyHeaders, read_headers
from engine.series_choice import SeriesRules, choose_series
from engine.volume import SourceSlice, Volume


def load_series(paths: Iterable[Path | str], rules: SeriesRules = SeriesRules()) -> Volume:  # noqa: B008 (frozen)
    """The series of a study that is to be screened, as a Volume; see `open_series`.

    Raises Undecodable also when an image of the series cannot be decoded.
    """
    with open_series(paths, rules) as series:
        return series.whole()


def open_series(paths: Iterable[Path | str], rules: SeriesRules = SeriesRules()) -> ArrivingVolume:  # noqa: B008 (frozen)
    """The series of a study that is to be screened, chosen by the headers; decoding its slices begins.

    paths: files of one study, in any order, of any kind; what is no CT image is left out with a reason.
    Geometry comes from ImagePositionPatient and ImageOrientationPatient only (PS3.3 C.7.6.2); the series is taken
    by the rule of `engine.series_choice.choose_series`.

    Raises NotScreenable when there is no CT stack or it is larger than `rules` allow; Undecodable when no file is
    DICOM. A stack that is too short for screening is still loaded:
    `engine.screening.screen` refuses it.
    """
    headers = read_headers(paths)
    choice = choose_series(headers, rules)
    frames = choice.stack.frames
    voxels = len(frames) * frames[0].rows * frames[0].columns
    if voxels > rules.max_voxels:
        raise NotScreenable(
            f"the series has {voxels / 1e6:.0f} million voxels, at most {rules.max_voxels / 1e6:.0f}"
        )
    used, sources = _sources(headers, frames)
    empty = Volume(
        hu=np.empty((len(frames), frames[0].rows, frames[0].columns), dtype=np.int16),
        geometry=choice.stack.geometry,
        sources=sources,
        study_instance_uid=frames[0].study_uid,
        series_instance_uid=frames[0].series_uid,
        frame_of_reference_uid=frames[0].frame_of_reference_uid,
        headers=tuple(headers.datasets[index] for index in used),
        series_choice=choice.reason,
    )
    return ArrivingVolume(empty, _decoded_into(empty.hu, frames))


def _sources(
    headers: StudyHeaders, frames: Sequence[FrameHeader]
) -> tuple[list[int], tuple[SourceSlice, ...]]:
    used = list(dict.fromkeys(frame.dataset for frame in frames))
    place = {dataset: header for header, dataset in enumerate(used)}
    return used, tuple(
        SourceSlice(f.sop_class_uid, f.sop_instance_uid, f.frame_number, place[f.dataset]) for f in frames
    )


def _decoded_into(hu: npt.NDArray[np.int16], frames: Sequence[FrameHeader]) -> Iterator[int]:
    """Decode every frame to its slice of `hu`, file by file; yields each slice that is there. Raises Undecodable."""
    by_file: dict[Path, list[int]] = defaultdict(list)
    for z, frame in enumerate(frames):
        by_file[frame.path].append(z)
    for slices in by_file.values():
        for z, pixels in zip(slices, decode_frames([frames[z] for z in slices]), strict=True):
            hu[z] = pixels
            yield z
