"""From Findings to DICOM result objects, and their delivery to the PACS.

The builders are loaded when they are first asked for: delivery, the configuration and most commands need only the
names of the objects, and the builders' libraries take a second to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reporting.context import (
    OBJECT_KINDS,
    ObjectKind,
    PredecessorReport,
    ReportContext,
    ReportOptions,
    ResultObject,
)
from reporting.priors import PriorComparison, ReportReference, prior_comparison

if TYPE_CHECKING:
    from reporting.building import DEFAULT_KINDS, build
    from reporting.study_time import last_acquisition
    from reporting.verification import VerificationError
    from reporting.warming import warm_up

__all__ = [
    "DEFAULT_KINDS",
    "OBJECT_KINDS",
    "ObjectKind",
    "PredecessorReport",
    "PriorComparison",
    "ReportContext",
    "ReportOptions",
    "ReportReference",
    "ResultObject",
    "VerificationError",
    "build",
    "last_acquisition",
    "prior_comparison",
    "warm_up",
]

_HOMES = (
    ("DEFAULT_KINDS", "reporting.building"),
    ("build", "reporting.building"),
    ("last_acquisition", "reporting.study_time"),
    ("VerificationError", "reporting.verification"),
    ("warm_up", "reporting.warming"),
)


def __getattr__(name: str) -> Any:
    """Names that are loaded when asked for (PEP 562)."""
    home = dict(_HOMES).get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
