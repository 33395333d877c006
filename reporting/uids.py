"""Derived UIDs: the same inputs always get the same UIDs, other inputs get others.

A retry then replaces and never duplicates. The root is 2.25 with a name-based UUID as an integer (PS3.5 B.2,
RFC 9562 5.5); a PACS that already holds an object keeps the old one silently, so everything that decides
content is part of the name.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from pydicom.uid import UID

from engine.findings import Findings
from engine.volume import Volume
from reporting.context import ReportContext
from reporting.identity import Identity

SCHEMA = "lungnode-results/5"
"""Changed whenever the builders write other bytes for the same inputs."""

NAMESPACE = uuid.UUID("a32bad45-ea92-5cf4-a079-8a7344d16d80")


@dataclass(frozen=True)
class ResultUids:
    """The UIDs of one result set, all derived from `digest`."""

    digest: str

    def series(self, kind: str) -> UID:
        """Series Instance UID of the objects of one kind."""
        return self._derive("series", kind)

    def instance(self, kind: str, number: int = 1) -> UID:
        """SOP Instance UID of the `number`th object of one kind."""
        return self._derive("instance", kind, str(number))

    def tracking(self, kind: str, label: str) -> UID:
        """Tracking UID of a lesion or region, shared by SEG and SR (PS3.3 C.8.20.2)."""
        return self._derive("tracking", kind, label)

    def dimension_organization(self, kind: str) -> UID:
        """Dimension Organization UID (PS3.3 C.7.6.17)."""
        return self._derive("dimension", kind)

    def _derive(self, *parts: str) -> UID:
        return derived_uid(self.digest, *parts)


def derived_uid(*parts: str) -> UID:
    """`2.25.` and the UUID (version 5) of the parts as an integer, at most 44 characters."""
    return UID(f"2.25.{uuid.uuid5(NAMESPACE, '|'.join(parts)).int}")


def result_uids(findings: Findings, volume: Volume, identity: Identity, context: ReportContext) -> ResultUids:
    """The UIDs of the result set of these instances, packages and settings.

    The source instances count as a set. Patient and study identity count too: objects that were filed under a
    wrong name and those that were made after the correction differ, and must not share a UID.
    """
    sources = sorted({f"{s.sop_instance_uid}/{s.frame_number or 0}" for s in volume.sources})
    parts = (
        SCHEMA,
        volume.study_instance_uid,
        volume.series_instance_uid,
        *sources,
        *(package.sha256 for package in findings.packages),
        *(f"no result of {failure.name}" for failure in findings.own_model_failures),
        context.settings_hash,
        context.software_version,
        context.station_name,
        repr(context.options),
        identity.digest,
    )
    return ResultUids(hashlib.sha256("\n".join(parts).encode()).hexdigest())


def compared_uids(uids: ResultUids, context: ReportContext) -> ResultUids:
    """The UIDs of an object that shows the comparison with an earlier study; without one they stay as they are."""
    if context.prior is None:
        return uids
    return ResultUids(hashlib.sha256(f"{uids.digest}\n{context.prior!r}".encode()).hexdigest())


def report_uids(uids: ResultUids, context: ReportContext) -> ResultUids:
    """The UIDs of a report, which tells its revision, its predecessor and the comparison with an earlier study.

    Those of a first report without a comparison stay as they are.
    """
    compared = compared_uids(uids, context)
    if context.predecessor is None and context.revision == 1:
        return compared
    predecessor = context.predecessor.sop_instance_uid if context.predecessor else ""
    parts = (compared.digest, str(context.revision), predecessor)
    return ResultUids(hashlib.sha256("\n".join(parts).encode()).hexdigest())
