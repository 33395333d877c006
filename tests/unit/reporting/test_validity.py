"""Other people's validators and readers find nothing wrong with any object."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from engine.findings import PneumoniaClass
from engine.volume import Volume
from reporting import OBJECT_KINDS, ReportContext, ReportOptions, build
from reporting.phantom_case import PhantomCase, make_case

CHARSETS = {
    "latin": ("ISO_IR 100", "Müller^Jörg"),
    "cyrillic": ("ISO_IR 144", "Иванов^Иван"),
    "greek": ("ISO_IR 126", "Παπαδόπουλος^Γιώργος"),
    "arabic": ("ISO_IR 127", "محمد^علي"),
    "japanese": ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "korean": ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
}


def written(tmp_path: Path, findings, volume, context: ReportContext) -> dict[str, Path]:
    """Every object as a file."""
    files = {}
    for result in build(findings, volume, context, OBJECT_KINDS):
        files[result.name] = tmp_path / f"{result.name}.dcm"
        files[result.name].write_bytes(result.encoded)
    return files


def assert_valid(files: dict[str, Path], run_tool) -> None:
    for name, path in files.items():
        said = run_tool("dciodvfy", path)
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        assert not errors, f"{name}: {errors}"


@pytest.mark.dicom3tools
def test_every_object_of_every_geometry(case, context: ReportContext, run_tool, tmp_path: Path) -> None:
    assert_valid(written(tmp_path, *case, context), run_tool)


@pytest.mark.dicom3tools
@pytest.mark.parametrize("charset", CHARSETS.values(), ids=CHARSETS.keys())
def test_every_object_of_every_character_set(
    charset, context: ReportContext, run_tool, tmp_path, through_file
) -> None:
    identity = Dataset()
    identity.SpecificCharacterSet = charset[0].split("\\")
    identity.PatientName = charset[1]
    identity.StudyInstanceUID = "1.2.3.4"
    assert_valid(written(tmp_path, *make_case(PhantomCase(), through_file(identity)), context), run_tool)


@pytest.mark.dicom3tools
def test_every_object_of_a_large_study(context: ReportContext, run_tool, tmp_path: Path) -> None:
    case = PhantomCase(slices=300, matrix=256, lesion_slices=130, lesions=4, step=1.0)
    assert_valid(written(tmp_path, *make_case(case), context), run_tool)


@pytest.mark.dicom3tools
@pytest.mark.parametrize(
    "case",
    [
        PhantomCase(lesion_slices=0),
        PhantomCase(m3lung_label=PneumoniaClass.CAP),
        PhantomCase(matrix=256, lesions=24),
        PhantomCase(slices=1, lesion_slices=1, lesions=1),
    ],
    ids=["negative", "discordant", "24 lesions", "one slice"],
)
def test_every_object_of_every_verdict(
    case: PhantomCase, context: ReportContext, run_tool, tmp_path: Path
) -> None:
    assert_valid(written(tmp_path, *make_case(case), context), run_tool)


@pytest.mark.dicom3tools
def test_all_frames_and_kept_characters(context: ReportContext, run_tool, tmp_path: Path) -> None:
    options = ReportOptions(charset="keep", omit_empty_frames=False, parametric_map="full")
    assert_valid(
        written(tmp_path, *make_case(PhantomCase()), dataclasses.replace(context, options=options)), run_tool
    )


def sources_written(folder: Path, volume: Volume) -> list[Path]:
    """The CT of the phantom as files, with pixels."""
    paths = []
    for z, header in enumerate(volume.headers):
        image = Dataset()
        image.update(header)
        image.PixelData = (volume.hu[z].astype("int32") + 1024).astype("uint16").tobytes()
        image["PixelData"].VR = "OW"
        image.PositionReferenceIndicator = ""
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        paths.append(folder / f"ct-{z}.dcm")
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, image, enforce_file_format=True)
        paths[-1].write_bytes(buffer.getvalue())
    return paths


@pytest.mark.dicom3tools
def test_sources_and_results_agree_on_patient_and_study(
    context: ReportContext, run_tool, tmp_path: Path
) -> None:
    findings, volume = make_case(PhantomCase())
    files = [*sources_written(tmp_path, volume), *written(tmp_path, findings, volume, context).values()]
    said = run_tool("dcentvfy", *files)
    # dicom3tools counts the accession number of an SR to its series; it is the same one everywhere.
    findings_left = [
        line
        for line in said.splitlines()
        if line.startswith(("Error", "Warning"))
        and "AccessionNumber" not in line
        and "Accession Number" not in line
    ]
    assert not findings_left


@pytest.mark.dcmtk
def test_presentation_state_checker(case, context: ReportContext, run_tool, tmp_path: Path) -> None:
    files = written(tmp_path, *case, context)
    said = run_tool("dcmpschk", files["gsps"])
    assert "Test passed" in said or not re.search(r"\bE:|[Ee]rror", said), said


@pytest.mark.dcmtk
@pytest.mark.parametrize("kind", ["sr", "sr_enhanced", "kos"])
def test_reports_are_read_and_shown_by_dcmtk(
    kind: str, context: ReportContext, run_tool, tmp_path: Path
) -> None:
    findings, volume = make_case(PhantomCase(m3lung_label=PneumoniaClass.CAP))
    files = written(tmp_path, findings, volume, context)
    dumped = run_tool("dsrdump", "+Pl", files[kind], check=True)
    shown = run_tool("dsr2html", files[kind], check=True)
    for text in (dumped, shown):
        assert "The two systems disagree" in text
    if kind != "kos":
        assert "Community acquired pneumonia" in dumped
        assert f"{findings.lesions[0].volume_ml:.3f}".rstrip("0") in dumped
