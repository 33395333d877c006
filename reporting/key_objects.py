"""Key Object Selection: the slices worth opening first, marked in the PACS (PS3.3 A.35.4, TID 2010)."""

from __future__ import annotations

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset

from engine.findings import Findings, OwnModelFindings
from reporting.codes import OF_INTEREST
from reporting.context import ReportContext
from reporting.equipment import common_arguments, device_observer
from reporting.identity import Identity
from reporting.source_images import SourceImages
from reporting.uids import ResultUids
from reporting.wording import NOT_VERIFIED, agreement, jcs_verdict, m3lung_verdict, own_model_lines


def key_object_selection(
    findings: Findings, sources: SourceImages, identity: Identity, uids: ResultUids, context: ReportContext
) -> Dataset:
    """The KOS of the key slices, with the verdicts as its description."""
    images = key_images(sources, findings)
    verdicts = (jcs_verdict(findings.jcs), m3lung_verdict(findings.m3lung), agreement(findings))
    words = (*verdicts, *own_model_lines(findings), NOT_VERIFIED)
    content = KeyObjectSelection(
        document_title=OF_INTEREST,
        referenced_objects=images,
        observer_device_context=device_observer(context),
        description=". ".join(words),
    )
    if sources.is_multi_frame:
        _name_frames(content[0], findings, sources)
    return KeyObjectSelectionDocument(
        evidence=images,
        content=content,
        requested_procedures=identity.referenced_requests() or None,
        **common_arguments("kos", "AI key slices - NOT VERIFIED", findings, uids, context),
    )


def key_images(sources: SourceImages, *found: Findings | OwnModelFindings) -> list[Dataset]:
    """The images that hold the key slices of all that was found, each once."""
    images = (sources.image_of(z) for one in found for z in one.key_slices)
    return list({str(image.SOPInstanceUID): image for image in images}.values())


def _name_frames(content: Dataset, findings: Findings, sources: SourceImages) -> None:
    """A reference to a multi-frame image means all of its frames unless it names some."""
    frames: dict[str, list[int]] = {}
    for z in findings.key_slices:
        frames.setdefault(sources.slices[z].sop_instance_uid, []).extend(sources.frames_of(z) or ())
    for item in content.ContentSequence:
        if item.ValueType == "IMAGE":
            reference = item.ReferencedSOPSequence[0]
            reference.ReferencedFrameNumber = sorted(frames[str(reference.ReferencedSOPInstanceUID)])
