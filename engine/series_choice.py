"""Which stack of slices of a study is screened: deterministic, on headers alone, with the reason in words."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from engine.errors import NotScreenable, Undecodable
from engine.headers import FrameHeader, Rejected, StudyHeaders, Vector
from engine.volume import Geometry

Kernel = Literal["soft", "lung"]

_LOCALIZER = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SECONDARY"})
_REFORMATTED = ("MPR", "MIP", "MAX_IP", "MINIP", "MIN_IP", "PROJECTION", "REFORMATTED", "CSA", "PERFUSION")
_SAME_POSITION_MM = 0.05
_SAME_DIRECTION = 1e-3
_UNEVEN = 1.5
"""A distance between slices that is so many times the usual one is told: slices may be missing there."""


@dataclass(frozen=True)
class SeriesRules:
    """Limits for a series that may be screened; the defaults fit a chest CT of 120 mm and more.

    max_gap_mm: the largest distance between neighbouring slices. preferred_kernel: what the models were
    trained on. max_voxels: refused before memory is taken (800 million are 1.6 GB).
    """

    min_slices: int = 20
    min_cover_mm: float = 120.0
    max_thickness_mm: float = 5.0
    max_gap_mm: float = 30.0
    min_axial_cosine: float = 0.9
    preferred_kernel: Kernel = "soft"
    max_voxels: int = 800_000_000


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames of one series with one geometry, in the order of the normal, no position twice.

    left_out: frames of the series that are not in the stack (other geometry, doubled positions).
    """

    frames: tuple[FrameHeader, ...]
    geometry: Geometry
    left_out: int

    @property
    def series_uid(self) -> str:
        return self.frames[0].series_uid


@dataclass(frozen=True, eq=False)
class SeriesChoice:
    """The stack to screen and one sentence that says why."""

    stack: Stack
    reason: str


def choose_series(headers: StudyHeaders, rules: SeriesRules) -> SeriesChoice:
    """The series to screen.

    Localizers, reformats, secondary and non-axial images never qualify. Among the rest, stacks within the limits
    of `rules` come first; then those that cover the lungs, ORIGINAL, thin, of the preferred kernel, with the largest
    cover, most slices, newest; ties go to the lower SeriesInstanceUID. A study with nothing but a stack that breaks
    a limit of size still gives that stack: `limit_breaches` is what keeps it from being screened.

    Raises NotScreenable when no CT stack is there, Undecodable when no file could be read as DICOM.
    """
    if headers.rejected and not headers.frames and not any(r.readable for r in headers.rejected):
        raise Undecodable(_summary("no file is readable as DICOM", headers.rejected))
    rejected = list(headers.rejected)
    stacks: list[Stack] = []
    for frames in _by(headers.frames, lambda f: (f.study_uid, f.series_uid)):
        usable = [frame for frame in frames if not _unfit(frame, rules, rejected)]
        if usable:
            stacks.append(_largest_stack(usable, len(frames)))
    if not stacks:
        raise NotScreenable(_summary("no axial CT series", rejected))
    widest = max(_cover(stack.geometry) for stack in stacks)
    best = max(stacks, key=lambda stack: _preference(stack, rules, widest))
    return SeriesChoice(best, _reason(best, stacks, rejected))


def limit_breaches(geometry: Geometry, shape: tuple[int, int, int], rules: SeriesRules) -> tuple[str, ...]:
    """What keeps a volume of this geometry and shape (Z, Y, X) from being screened; empty where nothing does."""
    cover, gap = _cover(geometry), _largest_gap(geometry)
    breaches = []
    if shape[0] < rules.min_slices:
        breaches.append(f"{_slices(shape[0])}, at least {rules.min_slices} are needed")
    if cover < rules.min_cover_mm:
        breaches.append(f"the slices cover {cover:.0f} mm, at least {rules.min_cover_mm:.0f} mm are needed")
    if geometry.slice_thickness > rules.max_thickness_mm:
        breaches.append(
            f"slices are {geometry.slice_thickness:g} mm thick, at most {rules.max_thickness_mm:g} mm"
        )
    if gap > rules.max_gap_mm:
        breaches.append(f"a gap of {gap:.0f} mm between slices, at most {rules.max_gap_mm:.0f} mm")
    return tuple(breaches)


def stack_slices(frames: Sequence[FrameHeader]) -> Stack:
    """The largest consistent stack of frames of one series, ordered by the normal, doubled positions dropped."""
    return _largest_stack(list(frames), len(frames))


def _by(frames: Iterable[FrameHeader], key: Callable[[FrameHeader], Hashable]) -> list[list[FrameHeader]]:
    groups: dict[Hashable, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return list(groups.values())


def _unfit(frame: FrameHeader, rules: SeriesRules, rejected: list[Rejected]) -> str:
    why = ""
    normal = np.cross(frame.row_direction, frame.column_direction)
    if any(value in _LOCALIZER for value in frame.image_type):
        why = "localizer or secondary image"
    elif any(value.startswith(_REFORMATTED) for value in frame.image_type):
        why = "reformatted or projected image"
    elif abs(normal[2]) < rules.min_axial_cosine:
        why = "not axial"
    elif frame.rows * frame.columns > rules.max_voxels:
        why = "too many pixels"
    if why:
        rejected.append(Rejected(frame.path, frame.series_uid, why, readable=True))
    return why


def _largest_stack(frames: list[FrameHeader], total: int) -> Stack:
    groups = _same_geometry(frames)
    candidates = [_without_doubles(group) for group in groups]
    best = max(candidates, key=lambda c: (len(c), c[0].acquired, c[0].sop_instance_uid))
    return Stack(tuple(best), _geometry(best), left_out=total - len(best))


def _same_geometry(frames: list[FrameHeader]) -> list[list[FrameHeader]]:
    """Groups with one frame of reference, size, spacing and orientation (to about 0.06 degrees)."""
    groups: list[list[FrameHeader]] = []
    for frame in sorted(frames, key=lambda f: (f.sop_instance_uid, f.frame_number or 0)):
        for group in groups:
            if _alike(frame, group[0]):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _alike(a: FrameHeader, b: FrameHeader) -> bool:
    return (
        a.frame_of_reference_uid == b.frame_of_reference_uid
        and (a.rows, a.columns) == (b.rows, b.columns)
        and np.allclose(a.pixel_spacing, b.pixel_spacing, rtol=0, atol=1e-3)
        and _close(a.row_direction, b.row_direction)
        and _close(a.column_direction, b.column_direction)
    )


def _close(a: Vector, b: Vector) -> bool:
    return max(abs(p - q) for p, q in zip(a, b, strict=True)) <= _SAME_DIRECTION


def _without_doubles(frames: list[FrameHeader]) -> list[FrameHeader]:
    """One frame per position: of several acquisitions the fullest, else the lowest InstanceNumber."""
    unique = _unique_positions(frames)
    if len(unique) == len(frames):
        return unique
    acquisitions = [_unique_positions(group) for group in _by(frames, lambda f: f.acquisition_number)]
    fullest = max(acquisitions, key=lambda group: (len(group), -group[0].acquisition_number))
    return fullest if len(fullest) >= 0.9 * len(unique) else unique


def _unique_positions(frames: list[FrameHeader]) -> list[FrameHeader]:
    normal = np.cross(frames[0].row_direction, frames[0].column_direction)
    offset = {id(frame): float(np.dot(frame.position, normal)) for frame in frames}
    ordered = sorted(
        frames, key=lambda f: (offset[id(f)], f.instance_number, f.sop_instance_uid, f.frame_number or 0)
    )
    kept: list[FrameHeader] = []
    for frame in ordered:
        if not kept or offset[id(frame)] - offset[id(kept[-1])] > _SAME_POSITION_MM:
            kept.append(frame)
        elif frame.instance_number < kept[-1].instance_number:
            kept[-1] = frame
    return kept


def _geometry(frames: Sequence[FrameHeader]) -> Geometry:
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    thicknesses = [frame.thickness for frame in frames if frame.thickness]
    geometry = Geometry(
        positions=positions,
        row_direction=np.array(frames[0].row_direction),
        column_direction=np.array(frames[0].column_direction),
        pixel_spacing=frames[0].pixel_spacing,
        slice_thickness=float(np.median(thicknesses)) if thicknesses else 1.0,
    )
    return geometry if thicknesses else replace(geometry, slice_thickness=geometry.slice_spacing)


def _cover(geometry: Geometry) -> float:
    return float(geometry.offsets[-1] - geometry.offsets[0]) + geometry.slice_thickness


def _largest_gap(geometry: Geometry) -> float:
    return float(np.diff(geometry.offsets).max()) if len(geometry.offsets) > 1 else 0.0


def _shape(stack: Stack) -> tuple[int, int, int]:
    return len(stack.frames), stack.frames[0].rows, stack.frames[0].columns


def _preference(stack: Stack, rules: SeriesRules, widest: float) -> tuple[object, ...]:
    first, geometry = stack.frames[0], stack.geometry
    cover = _cover(geometry)
    return (
        not limit_breaches(geometry, _shape(stack), rules),
        cover >= 0.75 * widest,
        first.image_type[:2] == ("ORIGINAL", "PRIMARY"),
        _thinness(max(geometry.slice_thickness, geometry.slice_spacing)),
        kernel_of(first.kernel) == rules.preferred_kernel,
        round(cover / 10),
        len(stack.frames),
        max(frame.acquired for frame in stack.frames),
        tuple(-ord(c) for c in first.series_uid),
    )


def _thinness(mm: float) -> int:
    """Grade of a slice distance: 0.6 to 2 mm is best."""
    if 0.6 <= mm <= 2.05:
        return 3
    return 2 if mm <= 3.05 else 1 if mm <= 5.05 else 0


def kernel_of(kernel: str) -> Kernel:
    """Whether a ConvolutionKernel is a sharp lung kernel or a soft one; unknown ones count as soft.

    Siemens B/D/I/Bl 60 and up, GE LUNG and BONE, Toshiba/Canon FC50 to FC59 and FC80 up, Philips YA to YD and L.
    """
    name = kernel.upper().split("/")[0].strip()
    digits = "".join(itertools.takewhile(str.isdigit, name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")))
    number = int(digits) if digits else 0
    if name.startswith(("LUNG", "BONE", "EDGE", "YA", "YB", "YC", "YD")) or name == "L":
        return "lung"
    if name.startswith("FC"):
        return "lung" if 50 <= number < 60 or number >= 80 else "soft"
    return "lung" if name[:1] in ("B", "D", "I", "H", "U") and number >= 60 else "soft"


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"


def _reason(best: Stack, stacks: Sequence[Stack], rejected: Sequence[Rejected]) -> str:
    first, geometry = best.frames[0], best.geometry
    kind = "\\".join(first.image_type[:3]) or "no ImageType"
    apart, gap = f"{geometry.slice_spacing:g} mm apart", _largest_gap(geometry)
    if gap > _UNEVEN * geometry.slice_spacing:
        apart += f" (at most {gap:.3g} mm)"
    parts = [
        f"{_slices(len(best.frames))}, {apart}, {geometry.slice_thickness:g} mm thick, {kind}, "
        f"{kernel_of(first.kernel)} kernel",
        f"best of {len(stacks)} CT series" if len(stacks) > 1 else "the only axial CT series",
    ]
    if best.left_out:
        parts.append(f"{best.left_out} of its images left out (other geometry or doubled position)")
    others = [r for r in rejected if r.series_uid != best.series_uid]
    if others:
        parts.append(f"not considered: {_counted(others)}")
    return "; ".join(parts) + "."


def _counted(rejected: Sequence[Rejected]) -> str:
    counts = Counter(r.reason for r in rejected).most_common()
    shown = ", ".join(f"{count} x {reason}" for reason, count in counts[:3])
    return shown + (f" and {len(counts) - 3} other reasons" if len(counts) > 3 else "")


def _summary(lead: str, rejected: Sequence[Rejected]) -> str:
    return f"{lead}: {_counted(rejected)}" if rejected else f"{lead}: no files"
