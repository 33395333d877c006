"""Who made a result: the equipment attributes of every object (PS3.3 C.7.5.1, C.7.5.2)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from highdicom.sr import AlgorithmIdentification, DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from engine.findings import Findings, PackageReference
from reporting.codes import ARTIFICIAL_INTELLIGENCE
from reporting.context import ReportContext
from reporting.uids import ResultUids, derived_uid
from scp.spool import IMPLEMENTATION_CLASS_UID

MANUFACTURER = "lungnode"
MODEL_NAME = "lungnode"
SERIES_NUMBER = {
    "seg": 9001, "gsps": 9002, "pm": 9003, "pm_m3": 9004, "sr": 9005, "sr_enhanced": 9006, "kos": 9007,
    "sc": 9008, "pdf": 9009, "lung_seg": 9010,
}  # fmt: skip
"""Series numbers far above those of scanners; the same kind always gets the same."""

SYSTEM_NAMES = {"jcs": "JCS", "m3lung": "M3Lung-Sys", "onnx": "Own model"}

_DATES = (
    "InstanceCreationDate",
    "ContentDate",
    "PresentationCreationDate",
    "SeriesDate",
    "DateOfSecondaryCapture",
)
_TIMES = (
    "InstanceCreationTime",
    "ContentTime",
    "PresentationCreationTime",
    "SeriesTime",
    "TimeOfSecondaryCapture",
)


def package_version(package: PackageReference) -> str:
    """Version of a model package with enough of its hash to tell two packages of one version apart."""
    return f"{package.version}+{package.sha256[:12]}"


def software_versions(findings: Findings, context: ReportContext) -> list[str]:
    """Software Versions of the results: the node's and those of all packages (LO, at most 64 characters each)."""
    spoke = (f"{package.name} {package_version(package)}" for package in findings.packages)
    versions = [f"lungnode {context.software_version}", *spoke]
    return [version[:64] for version in versions]


def common_arguments(
    kind: str,
    description: str,
    findings: Findings,
    uids: ResultUids,
    context: ReportContext,
    instance: int = 1,
    series_number: int | None = None,
) -> dict[str, Any]:
    """The arguments that highdicom wants alike for every object: series, instance and equipment.

    series_number: of a series that is none of the usual; else that of the kind.
    """
    return {
        "series_instance_uid": uids.series(kind),
        "series_number": SERIES_NUMBER[kind] if series_number is None else series_number,
        "series_description": description,
        "sop_instance_uid": uids.instance(kind, instance),
        "instance_number": instance,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": software_versions(findings, context),
        "device_serial_number": context.station_name,
        "contributing_equipment": [_processing_algorithm(package, context) for package in findings.packages],
    }


def _processing_algorithm(package: PackageReference, context: ReportContext) -> ContributingEquipment:
    """An algorithm as contributing equipment (PS3.3 C.12.1), as the AI Results profile of IHE wants it.

    The profile's purpose "Processing Algorithm" has no code in CID 7005; "Processing Equipment" is the nearest there.
    """
    item = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=f"{SYSTEM_NAMES[package.system]} ({package.name})"[:64],
        software_versions=package_version(package)[:64],
        station_name=context.station_name,
        contribution_datetime=context.result_time,
        contribution_description="Processing Algorithm",
    )
    item.DeviceUID = derived_uid("algorithm", package.sha256)
    return item


def algorithm_sequence(package: PackageReference) -> AlgorithmIdentificationSequence:
    """The algorithm of a segment (PS3.3 10.16), with the hash of its weights."""
    return AlgorithmIdentificationSequence(
        name=f"{SYSTEM_NAMES[package.system]} ({package.name})"[:64],
        family=ARTIFICIAL_INTELLIGENCE,
        version=package_version(package)[:64],
        source=_maker(package),
        parameters={"package_sha256": package.sha256},
    )


def algorithm_content(package: PackageReference, parameters: Iterable[str] = ()) -> AlgorithmIdentification:
    """The algorithm of a measurement group (TID 4019, PS3.16)."""
    return AlgorithmIdentification(
        name=f"{SYSTEM_NAMES[package.system]} ({package.name})",
        version=package_version(package),
        parameters=[f"package sha256 {package.sha256}", *parameters],
        family=ARTIFICIAL_INTELLIGENCE,
        manufacturer=_maker(package),
    )


def _maker(package: PackageReference) -> str | None:
    """Who made an algorithm; of an own model only the department knows."""
    return None if package.system == "onnx" else MANUFACTURER


def device_observer(context: ReportContext) -> ObserverContext:
    """The node as the observer of a report (TID 1002, 1004)."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", context.station_name),
            name=context.station_name,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=context.station_name,
        ),
    )


def freeze(dataset: Dataset, kind: str, uids: ResultUids, moment: datetime) -> None:
    """Replace whatever a library took from the clock, from chance or from its own version."""
    dataset.SeriesDate = dataset.SeriesTime = ""
    for keyword in _DATES:
        if keyword in dataset:
            setattr(dataset, keyword, moment.strftime("%Y%m%d"))
    for keyword in _TIMES:
        if keyword in dataset:
            setattr(dataset, keyword, moment.strftime("%H%M%S.%f"))
    for item in dataset.get("ContributingEquipmentSequence") or ():
        if "ContributionDateTime" in item:
            item.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S.%f")
    if "ContentLabel" in dataset and "ContentCreatorName" not in dataset:
        dataset.ContentCreatorName = ""  # type 2 in the Content Identification macro, left out by highdicom
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = "LUNGNODE"
    organization = uids.dimension_organization(kind)
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(sequence) or ():
            item.DimensionOrganizationUID = organization
