"""What the result objects need to know besides the Findings and the Volume.

Everything that may change a byte of a result is in here or in the inputs: the builders read no clock, no random
number and no environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Literal, get_args

from pydicom.dataset import Dataset

from reporting.encoding import encoded
from reporting.priors import PriorComparison, ReportReference

ObjectKind = Literal["seg", "gsps", "pm", "pm_m3", "sr", "sr_enhanced", "kos", "sc", "pdf", "lung_seg"]
"""Result objects by the names that the configuration uses.

seg: lesion Segmentation. lung_seg: lung Segmentation. gsps: presentation state with contours. pm: Parametric Map of
the JCS activation maps; pm_m3: of the M3Lung-Sys location maps. sr: Comprehensive 3D SR; sr_enhanced: the same
content as Enhanced SR. kos: Key Object Selection. sc: colour Secondary Capture summary. pdf: Encapsulated PDF.
"""

OBJECT_KINDS: tuple[ObjectKind, ...] = get_args(ObjectKind)


PredecessorReport = ReportReference
"""The SR that an earlier revision of the same study left in the PACS (PS3.3 C.17.2, Predecessor Documents)."""


@dataclass(frozen=True)
class ReportOptions:
    """How the objects are encoded.

    charset: `utf8` writes all text as ISO_IR 192; `keep` leaves names in the character set of the source.
    segmentation: BINARY is what viewers read; LABELMAP (Supplement 243) is smaller and newer.
    parametric_map: `compact` is uint16 on the map's own grid, about 1 MB a study; `full` is float32 at the matrix of
        the CT for every slice, 1 MiB a slice of 512 x 512 unless deflated, which OHIF needs.
    omit_empty_frames: leave out frames without a lesion; some old viewers need them all.
    deflated: Segmentations and Parametric Maps in Deflated Explicit VR Little Endian, a twentieth of the size.
    individual_lesions: so many lesions get a segment of their own, the rest share one.
    """

    charset: Literal["utf8", "keep"] = "utf8"
    segmentation: Literal["binary", "labelmap"] = "binary"
    parametric_map: Literal["compact", "full"] = "compact"
    omit_empty_frames: bool = True
    deflated: bool = False
    individual_lesions: int = 20


@dataclass(frozen=True)
class ReportContext:
    """Frozen circumstances of one result set.

    result_time: when the result was first made, local wall-clock time of the site; the same on every retry.
    settings_hash: hash of the configuration that decides results; part of every UID.
    software_version: version of the node.
    revision: 1 for the first result set of a study, n+1 after slices arrived late.
    predecessor: the SR of revision n, None for the first.
    prior: an earlier screening of the same patient that may be compared, None where there is none.
    station_name: our AE title, at most 16 characters.
    """

    result_time: datetime
    settings_hash: str
    software_version: str
    revision: int = 1
    predecessor: PredecessorReport | None = None
    prior: PriorComparison | None = None
    station_name: str = "LUNGNODE"
    options: ReportOptions = ReportOptions()


@dataclass(frozen=True, eq=False)
class ResultObject:
    """One finished DICOM object. Change nothing in `dataset`: its file may have been made already.

    number: 1 for the first object of its kind; only `sc` has more.
    """

    kind: ObjectKind
    dataset: Dataset
    number: int = 1

    @property
    def name(self) -> str:
        """A file name without ending, different for each object of a result set: seg, sc, sc-02."""
        return self.kind if self.number == 1 else f"{self.kind}-{self.number:02d}"

    @cached_property
    def encoded(self) -> bytes:
        """The object as a DICOM file (PS3.10), as it was verified and as it is to be saved."""
        return encoded(self.dataset)
