"""From Findings to DICOM result objects, and their delivery to the PACS."""

from reporting.building import DEFAULT_KINDS, build
from reporting.context import (
    OBJECT_KINDS,
    ObjectKind,
    PredecessorReport,
    ReportContext,
    ReportOptions,
    ResultObject,
)
from reporting.study_time import last_acquisition
from reporting.verification import VerificationError

__all__ = [
    "DEFAULT_KINDS",
    "OBJECT_KINDS",
    "ObjectKind",
    "PredecessorReport",
    "ReportContext",
    "ReportOptions",
    "ResultObject",
    "VerificationError",
    "build",
    "last_acquisition",
]
