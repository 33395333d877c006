"""Make the first study as fast as the others."""

from __future__ import annotations

import functools
from datetime import datetime

import highdicom

from reporting.building import build
from reporting.context import OBJECT_KINDS, ReportContext
from reporting.iod_lookup import remember_lookups
from reporting.phantom_case import PhantomCase, make_case


@functools.cache
def warm_up() -> None:
    """Build every object once from a tiny phantom, so that modules and tables are loaded before a study waits.

    Takes about a second, once in a process, however many caseworks it opens; never needed for right results.
    """
    remember_lookups(highdicom._standard_utils)
    context = ReportContext(datetime(2026, 1, 1), settings_hash="warm-up", software_version="0")
    for result in build(*make_case(PhantomCase()), context, OBJECT_KINDS):
        _ = result.encoded
