"""Pictures of the findings: CT slices with lesion outline and heatmaps, and a page that says what was found.

The same pictures go into the Secondary Capture summary, the PDF report and the demonstration. No patient identity
is drawn: the file that carries a picture names the patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from engine.facing import facing_as_trained, facing_of
from engine.findings import Findings, PneumoniaClass
from engine.volume import Geometry, Volume
from reporting.contours import iso_contours
from reporting.lung_window import LUNG_WINDOW
from reporting.presentation_state import JCS_COLOR, LEVELS, M3LUNG_COLOR
from reporting.priors import PriorComparison
from reporting.segmentation import LESION_COLOR
from reporting.slice_names import SliceNames, slice_names
from reporting.wording import (
    CLASS_NAMES,
    COUNT_RULE,
    NOT_VERIFIED,
    agreement,
    decided_by_count,
    few_own_model_lines,
    jcs_reason,
    jcs_verdict,
    lesion_summary,
    m3lung_verdict,
    prior_lines,
)

Pixels = npt.NDArray[np.uint8]

PAGE_SIZE = 1024
SLICE_SIZE = 512
HEATMAP_OPACITY = 0.55

_BACKGROUND = (16, 18, 22)
_PANEL = (28, 32, 38)
_TEXT = (230, 232, 235)
_DIM = (150, 156, 164)
_ALARM = (255, 90, 80)
_GRID = (60, 66, 74)


def render_overview(findings: Findings, volume: Volume) -> Image.Image:
    """The page and the four slices that show most, one RGB picture of 2048 x 1024 pixels."""
    overview = Image.new("RGB", (2 * PAGE_SIZE, PAGE_SIZE), _BACKGROUND)
    overview.paste(render_page(findings, volume), (0, 0))
    for i, z in enumerate(summary_slices(findings, limit=4)):
        place = (PAGE_SIZE + (i % 2) * SLICE_SIZE, (i // 2) * SLICE_SIZE)
        overview.paste(render_slice(findings, volume, z), place)
    return overview


def summary_slices(findings: Findings, limit: int = 12) -> tuple[int, ...]:
    """At most `limit` slices for a summary, in slice order: key slices, then where each lesion is largest."""
    wanted = [*findings.key_slices, *(lesion.largest_slice for lesion in findings.lesions)]
    return tuple(sorted(list(dict.fromkeys(wanted))[:limit]))


def render_slice(findings: Findings, volume: Volume, z: int, size: int = SLICE_SIZE) -> Image.Image:
    """One slice as an RGB picture of `size` x `size`, as stored, with the true ratio of its sides.

    The JCS activation map is laid over it in colour, the M3Lung-Sys location map as contours, the lesions as
    outlines.
    """
    shape = _fitted_shape(volume.geometry, (volume.shape[1], volume.shape[2]), size)
    pixels = _blended(
        _windowed(volume.hu[z], shape), _enlarged(findings.jcs.activation_maps[z], shape), JCS_COLOR
    )
    outline = _outline(findings.lesion_labels[z] > 0, shape)
    pixels[outline] = LESION_COLOR
    picture = Image.new("RGB", (size, size), (0, 0, 0))
    corner = ((size - shape[1]) // 2, (size - shape[0]) // 2)
    picture.paste(Image.fromarray(pixels), corner)
    draw = ImageDraw.Draw(picture)
    for contour in iso_contours(findings.m3lung.location_maps[z : z + 1], LEVELS, shape):
        draw.line(
            [(float(x) + corner[0], float(y) + corner[1]) for x, y in contour.points], M3LUNG_COLOR, width=1
        )
    _caption_slice(draw, findings, volume, z, size)
    return picture


def _caption_slice(draw: ImageDraw.ImageDraw, findings: Findings, volume: Volume, z: int, size: int) -> None:
    small, height = _font(13), size - 8
    left, right, top, bottom = orientation_letters(volume.geometry)
    lines = (
        f"{slice_names(volume).name(z)}   z {volume.geometry.positions[z][2]:.1f} mm",
        f"JCS slice probability {findings.jcs.slice_probabilities[z] * 100:.0f} %",
    )
    for i, line in enumerate(lines):
        _label(draw, (8, 8 + 18 * i), line, small)
    _label(draw, (8, size // 2), left, small)
    _label(draw, (size - 8, size // 2), right, small, anchor="ra")
    _label(draw, (size // 2, 8), top, small, anchor="ma")
    _label(draw, (size // 2, height), bottom, small, anchor="ms")
    _label(draw, (8, height - 34), "lesion outline", small, fill=LESION_COLOR, anchor="ls")
    _label(draw, (8, height - 17), "JCS activation", small, fill=JCS_COLOR, anchor="ls")
    _label(draw, (8, height), "M3Lung-Sys location", small, fill=M3LUNG_COLOR, anchor="ls")
    _label(draw, (size - 8, height), "NOT VERIFIED", small, fill=_ALARM, anchor="rs")


def orientation_letters(geometry: Geometry) -> tuple[str, str, str, str]:
    """Patient directions (R, L, A, P, H, F; PS3.3 C.7.6.1.1.1) at the left, right, top and bottom border."""
    right, bottom = _direction(geometry.row_direction), _direction(geometry.column_direction)
    left, top = _direction(-geometry.row_direction), _direction(-geometry.column_direction)
    return left, right, top, bottom


def _direction(vector: npt.NDArray[np.float64]) -> str:
    axis = int(np.argmax(np.abs(vector)))
    return ("LPH" if vector[axis] > 0 else "RAF")[axis]


def render_page(findings: Findings, volume: Volume, prior: PriorComparison | None = None) -> Image.Image:
    """The summary page, RGB of 1024 x 1024: both verdicts, how they came about, lesions, who says so.

    prior: an earlier screening to compare with, if there is one.
    """
    page = Image.new("RGB", (PAGE_SIZE, PAGE_SIZE), _BACKGROUND)
    draw = ImageDraw.Draw(page)
    draw.text((32, 24), "Chest CT screening for pneumonia", _TEXT, _font(30))
    draw.text((32, 64), NOT_VERIFIED, _ALARM, _font(18))
    jcs = _Box(32, 104, 960, 222)
    jcs.draw(draw)
    _jcs_box(draw, jcs, findings)
    m3lung = _Box(32, 338, 960, 202)
    m3lung.draw(draw)
    _m3lung_box(draw, m3lung, findings)
    y = 554
    y = _paragraph(draw, _Box(32, y, 960, 0), agreement(findings), _ALARM if findings.discordant else _TEXT)
    compared = prior_lines(prior, findings) if prior is not None else []
    for line in (lesion_summary(findings), *compared, *few_own_model_lines(findings)):
        y = _paragraph(draw, _Box(32, y, 960, 0), line, _TEXT)
    y += 10
    _projections(page, _Box(32, y, 600, 954 - y), findings, volume)
    _lesion_table(draw, _Box(660, y, 332, 954 - y), findings, slice_names(volume))
    _footer(draw, findings)
    return page


@dataclass(frozen=True)
class _Box:
    """A part of a page in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def draw(self, draw: ImageDraw.ImageDraw) -> None:
        draw.rounded_rectangle((self.left, self.top, self.right, self.bottom), 8, _PANEL)


def _paragraph(draw: ImageDraw.ImageDraw, box: _Box, text: str, fill: tuple[int, int, int]) -> int:
    """Text broken into lines that fit the box; returns where the next paragraph starts."""
    font, line, y = _font(18), "", box.top
    for word in text.split():
        longer = f"{line} {word}".strip()
        if draw.textlength(longer, font) > box.width:
            draw.text((box.left, y), line, fill, font)
            line, y = word, y + 24
        else:
            line = longer
    draw.text((box.left, y), line, fill, font)
    return y + 28


def _jcs_box(draw: ImageDraw.ImageDraw, box: _Box, findings: Findings) -> None:
    draw.text((box.left + 16, box.top + 12), jcs_verdict(findings.jcs), _TEXT, _font(22))
    draw.text((box.left + 16, box.top + 44), jcs_reason(findings.jcs), _DIM, _font(15))
    chart = _Box(box.left + 60, box.top + 78, box.width - 84, 108)
    for share in (0.0, 0.5, 1.0):
        y = chart.bottom - share * chart.height
        draw.line((chart.left, y, chart.right, y), _GRID)
        draw.text((chart.left - 8, y), f"{share * 100:.0f} %", _DIM, _font(12), anchor="rm")
    values, limit = findings.jcs.slice_probabilities, findings.jcs.slice_threshold
    step = chart.width / len(values)
    for z, value in enumerate(values):
        x = chart.left + z * step
        color = JCS_COLOR if value > limit else _DIM
        top = chart.bottom - max(1.0, float(value) * chart.height)
        draw.rectangle((x, top, x + max(1.0, step - 1), chart.bottom), color)
    draw.text((chart.left, chart.bottom + 6), "first slice", _DIM, _font(12))
    draw.text((chart.right, chart.bottom + 6), "last slice", _DIM, _font(12), anchor="ra")
    middle = (chart.left + chart.width // 2, chart.bottom + 6)
    draw.text(middle, "probability of COVID-19 per slice", _DIM, _font(12), anchor="ma")


def _m3lung_box(draw: ImageDraw.ImageDraw, box: _Box, findings: Findings) -> None:
    draw.text((box.left + 16, box.top + 12), m3lung_verdict(findings.m3lung), _TEXT, _font(22))
    if decided_by_count(findings.m3lung):
        draw.text((box.left + 16, box.top + 40), COUNT_RULE, _DIM, _font(13))
    for i, which in enumerate(PneumoniaClass):
        y, probability = box.top + 64 + i * 33, findings.m3lung.probabilities[which]
        chosen = which is findings.m3lung.label
        draw.text(
            (box.left + 16, y + 10), CLASS_NAMES[which], _TEXT if chosen else _DIM, _font(16), anchor="lm"
        )
        bar = _Box(box.left + 280, y, 560, 20)
        draw.rectangle((bar.left, bar.top, bar.right, bar.bottom), _GRID)
        color = M3LUNG_COLOR if chosen else _DIM
        if probability * bar.width >= 1:
            draw.rectangle((bar.left, bar.top, bar.left + probability * bar.width, bar.bottom), color)
        text = f"{probability * 100:.1f} %"
        draw.text((box.right - 24, y + 10), text, _TEXT if chosen else _DIM, _font(16), anchor="rm")


def _projections(page: Image.Image, box: _Box, findings: Findings, volume: Volume) -> None:
    """The whole volume from the front and from the side, lesions laid over it.

    The head on top, the patient's right and front to the left, however the series is stored.
    """
    geometry, facing = volume.geometry, facing_as_trained(volume.geometry)
    depth = geometry.slice_spacing * volume.shape[0]
    axial = abs(geometry.normal[2]) > 0.8
    labels = ("coronal", "sagittal") if axial else ("along the columns", "along the rows")
    sides = ("RL", "AP")
    for i, (axis, turned) in enumerate(((1, facing.columns), (2, facing.rows))):
        upright = np.s_[:: 1 if facing.slices else -1, :: -1 if turned else 1]
        across = (geometry.pixel_spacing[1] * volume.shape[2], geometry.pixel_spacing[0] * volume.shape[1])[i]
        room = (box.width // 2 - 8, box.height - 22)
        scale = min(room[0] / across, room[1] / depth)
        shape = (max(1, round(depth * scale)), max(1, round(across * scale)))
        grey = _windowed(volume.hu.mean(axis=axis)[upright], shape, (-500.0, 1000.0))
        lesion = np.array([(plane > 0).mean(axis=axis - 1) for plane in findings.lesion_labels])
        lesion = lesion[upright].astype(np.float32)
        lesion = np.sqrt(lesion / lesion.max()) if lesion.any() else lesion
        place = (box.left + i * (box.width // 2), box.top)
        page.paste(Image.fromarray(_blended(grey, _enlarged(lesion, shape), LESION_COLOR, 0.9)), place)
        draw = ImageDraw.Draw(page)
        draw.text((place[0], box.top + shape[0] + 6), f"{labels[i]} projection", _DIM, _font(12))
        if facing_of(geometry) is not None:
            middle, right = place[1] + shape[0] // 2, place[0] + shape[1] - 4
            for x, letter, anchor in zip((place[0] + 4, right), sides[i], ("lm", "rm"), strict=True):
                _label(draw, (x, middle), letter, _font(13), anchor=anchor)


def _lesion_table(draw: ImageDraw.ImageDraw, box: _Box, findings: Findings, names: SliceNames) -> None:
    rows = (box.height - 56) // 28
    columns = (box.left, box.left + 120, box.left + 210, box.right)
    header = ("lesion", "volume ml", "mean HU", f"{names.word}s")
    for x, text, anchor in zip(columns, header, ("la", "ra", "ra", "ra"), strict=True):
        draw.text((x, box.top), text, _DIM, _font(14), anchor=anchor)
    for i, lesion in enumerate(findings.lesions[:rows]):
        y = box.top + 28 + i * 28
        cells = (str(i + 1), f"{lesion.volume_ml:.1f}", f"{lesion.mean_hu:.0f}", names.span(*lesion.slices))
        for x, text, anchor in zip(columns, cells, ("la", "ra", "ra", "ra"), strict=True):
            draw.text((x, y), text, _TEXT, _font(16), anchor=anchor)
    more = len(findings.lesions) - rows
    if more > 0:
        draw.text((box.left, box.top + 28 + rows * 28), f"and {more} more", _DIM, _font(14))
    if not findings.lesions:
        draw.text((box.left, box.top + 28), "none segmented", _DIM, _font(16))


def _footer(draw: ImageDraw.ImageDraw, findings: Findings) -> None:
    text = "   ".join(f"{p.name} {p.version} ({p.sha256[:12]})" for p in findings.packages)
    draw.text((32, 972), text, _DIM, _font(13))
    draw.text(
        (32, 992), "AI generated, not a diagnosis. A radiologist must read the images.", _DIM, _font(13)
    )


def _fitted_shape(geometry: Geometry, slice_shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Rows and columns of a picture of a slice that fits into `size` and keeps the ratio of mm."""
    height = slice_shape[0] * geometry.pixel_spacing[0]
    width = slice_shape[1] * geometry.pixel_spacing[1]
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _windowed(
    hu: npt.NDArray[np.generic], shape: tuple[int, int], window: tuple[float, float] = LUNG_WINDOW
) -> Pixels:
    """Grey RGB uint8 [rows, columns, 3] of HU values [Y, X] at another size."""
    center, width = window
    scaled = np.clip((hu.astype(np.float32) - (center - width / 2)) / width, 0, 1)
    grey = np.round(_enlarged(scaled, shape) * 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _enlarged(values: npt.NDArray[np.generic], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """float32 values [h, w] at another size, bilinear."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR), dtype=np.float32)


def _blended(
    pixels: Pixels,
    weight: npt.NDArray[np.float32],
    color: tuple[int, int, int],
    opacity: float = HEATMAP_OPACITY,
) -> Pixels:
    alpha = np.clip(weight, 0, 1)[:, :, None] * opacity
    mixed = pixels * (1 - alpha) + np.array(color, dtype=np.float32) * alpha
    return np.asarray(np.round(mixed), dtype=np.uint8)


def _outline(mask: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The inner border of a mask [Y, X] at another size."""
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (shape[1], shape[0]), Image.Resampling.NEAREST
    )
    larger = np.asarray(image) > 0
    return np.asarray(larger & ~ndimage.binary_erosion(larger), dtype=np.bool_)


def _label(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    fill: tuple[int, int, int] = _TEXT,
    anchor: str = "la",
) -> None:
    """Text that can be read on any background."""
    draw.text(place, text, fill, font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
