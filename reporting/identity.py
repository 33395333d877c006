"""Patient, study and request identity: copied true from the source into every result.

A PACS files a result by these attributes, so their values are never corrected, shortened or guessed. Text becomes
Unicode (ISO_IR 192, PS3.5 6.1.2.3) unless the source character set is to be kept. Type 2 attributes that the
source lacks are added empty, as the IODs demand.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

UNICODE = "ISO_IR 192"

PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID",
    "PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientIDs", "OtherPatientIDsSequence",
    "OtherPatientNames", "EthnicGroup", "PatientComments", "ResponsiblePerson", "ResponsiblePersonRole",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "QualityControlSubject",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID",
)  # fmt: skip
"""Patient IE (PS3.3 C.7.1)."""

STUDY = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "ReferencedStudySequence", "ProcedureCodeSequence", "ReasonForPerformedProcedureCodeSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "PatientAge", "PatientSize",
    "PatientWeight", "Occupation", "AdditionalPatientHistory", "AdmissionID", "IssuerOfAdmissionIDSequence",
    "ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription", "LongitudinalTemporalOffsetFromEvent",
)  # fmt: skip
"""Study IE (PS3.3 C.7.2)."""

TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Attributes that the Patient and General Study modules want at least empty."""

REQUEST_TYPE_2 = (
    "ReferencedStudySequence", "AccessionNumber", "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest", "RequestedProcedureID", "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
)  # fmt: skip
"""What an item of the Referenced Request Sequence of a report wants at least empty (PS3.3 C.17.2)."""

_ESCAPE_LEFT_BY_PYDICOM = "\x1b$)A"
"""pydicom 3.0 decodes ISO 2022 IR 58 and leaves its escape sequence in the text."""


@dataclass(frozen=True, eq=False)
class Identity:
    """Whom and what a result belongs to.

    attributes: patient and study attributes, ready to be copied into a result, with SpecificCharacterSet.
    requests: items of the source's Request Attributes Sequence, empty where it has none.
    digest: hex hash over all of it.
    """

    attributes: Dataset
    requests: tuple[Dataset, ...]
    digest: str

    def stamp(self, dataset: Dataset) -> None:
        """Give `dataset` this identity, in place of whatever patient and study attributes it has."""
        for keyword in (*PATIENT, *STUDY, "SpecificCharacterSet"):
            if keyword in dataset:
                del dataset[keyword]
        for element in self.attributes:
            dataset.add(copy.deepcopy(element))

    def referenced_requests(self) -> list[Dataset]:
        """Items for the Referenced Request Sequence of a report (PS3.3 C.17.2)."""
        return [self._referenced_request(request) for request in self.requests]

    def _referenced_request(self, request: Dataset) -> Dataset:
        item = copy.deepcopy(request)
        if "StudyInstanceUID" not in item:
            item.StudyInstanceUID = self.attributes.StudyInstanceUID
        for keyword in REQUEST_TYPE_2:
            if keyword not in item:
                setattr(item, keyword, Sequence() if keyword.endswith("Sequence") else "")
        # Scheduling belongs to the request of images, not to that of a report.
        for keyword in (
            "ScheduledProcedureStepID",
            "ScheduledProcedureStepDescription",
            "ScheduledProtocolCodeSequence",
        ):
            if keyword in item:
                del item[keyword]
        return item


def identity_of(header: Dataset, charset: Literal["utf8", "keep"] = "utf8") -> Identity:
    """The identity that a source header carries.

    charset `utf8`: text in Unicode; `keep`: in the character set of the source, with an empty first value (the
    usual Japanese and Korean form) left as it is.
    """
    source = copy.deepcopy(
        _selected(header, (*PATIENT, *STUDY, "RequestAttributesSequence", "SpecificCharacterSet"))
    )
    source.decode()
    if charset == "utf8":
        source = _in_unicode(source)
    requests = tuple(source.get("RequestAttributesSequence") or ())
    if "RequestAttributesSequence" in source:
        del source["RequestAttributesSequence"]
    for keyword in TYPE_2:
        if keyword not in source:
            setattr(source, keyword, "")
    return Identity(source, requests, _digest(source, requests))


def _selected(header: Dataset, keywords: Iterable[str]) -> Dataset:
    selected = Dataset()
    for keyword in keywords:
        if keyword in header:
            selected.add(header[keyword])
    return selected


def _in_unicode(source: Dataset) -> Dataset:
    converted = Dataset()
    for element in source:
        converted.add(_element_in_unicode(element))
    converted.SpecificCharacterSet = UNICODE
    return converted


def _element_in_unicode(element: DataElement) -> DataElement:
    if element.VR == "SQ":
        items = []
        for item in element.value:
            inner = _in_unicode(item)
            del inner["SpecificCharacterSet"]  # inherited from the dataset around it
            items.append(inner)
        return DataElement(element.tag, "SQ", Sequence(items))
    if element.VR in ("PN", "LO", "SH", "ST", "LT", "UC", "UT"):
        values = element.value if element.VM > 1 else [element.value]
        texts = [str(v if v is not None else "").replace(_ESCAPE_LEFT_BY_PYDICOM, "") for v in values]
        return DataElement(element.tag, element.VR, texts if element.VM > 1 else texts[0])
    return element


def _digest(attributes: Dataset, requests: tuple[Dataset, ...]) -> str:
    text = "\n".join(str(part) for part in (attributes, *requests))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
