"""The header reader: agrees with pydicom on what is right, ends in bounds on what is not."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from scp.header import MAX_DEPTH, MAX_INFLATED_HEADER, UnreadableDataset, read_header

EXAMPLES = int(os.environ.get("LUNGNODE_FUZZ_EXAMPLES", "150"))
SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]

uids = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\\"), max_size=16)


def encode(dataset: Dataset, syntax: pydicom.uid.UID) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, dataset)
    plain = buffer.getvalue()
    if syntax != DeflatedExplicitVRLittleEndian:
        return plain
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(plain) + compressor.flush()


def with_sequence(dataset: Dataset, depth: int, undefined: bool) -> Dataset:
    """Put a sequence, `depth` deep, between the attributes that are wanted."""
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = Sequence([inner, Dataset()])
        outer["ContentSequence"].is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
        inner = outer
    dataset.ReferencedStudySequence = Sequence([inner])
    dataset["ReferencedStudySequence"].is_undefined_length = undefined
    return dataset


@given(
    uid=st.tuples(uids, uids, uids, uids),
    modality=words,
    patient=words,
    image_type=st.lists(words.filter(bool), max_size=4),
    depth=st.integers(0, 6),
    undefined=st.booleans(),
    syntax=st.sampled_from(SYNTAXES),
)
@settings(max_examples=60, deadline=None)
def test_it_reads_what_pydicom_wrote(
    uid: tuple[str, str, str, str],
    modality: str,
    patient: str,
    image_type: list[str],
    depth: int,
    undefined: bool,
    syntax: pydicom.uid.UID,
) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid
    dataset.add_new("Modality", "CS", modality)
    dataset.add_new("PatientID", "LO", patient)
    dataset.add_new("ImageType", "CS", image_type)
    dataset.PixelData = b"\0" * 100
    dataset["PixelData"].VR = "OW"
    header = read_header(encode(with_sequence(dataset, depth, undefined), syntax), syntax)
    found = (
        header.sop_class_uid,
        header.sop_instance_uid,
        header.study_instance_uid,
        header.series_instance_uid,
    )
    assert found == uid
    assert header.modality == modality.strip()
    assert header.patient_id == patient.strip().encode()
    assert header.image_type == tuple(image_type or [""])


@given(data=st.binary(max_size=4096), syntax=st.sampled_from(SYNTAXES))
@settings(max_examples=EXAMPLES, deadline=None)
def test_anything_is_read_or_refused(data: bytes, syntax: str) -> None:
    try:
        read_header(data, syntax)
    except UnreadableDataset as error:
        assert str(error)


@given(
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    syntax=st.sampled_from(SYNTAXES),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_damaged_data_set_is_read_or_refused(cut: int, flips: list[tuple[int, int]], syntax: str) -> None:
    dataset = Dataset()
    dataset.SOPClassUID = dataset.SOPInstanceUID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = (
        "1.2.3"
    )
    damaged = bytearray(encode(with_sequence(dataset, 3, undefined=True), pydicom.uid.UID(syntax)))
    for at, value in flips:
        damaged[at % len(damaged)] = value
    try:
        read_header(bytes(damaged[: len(damaged) - cut % len(damaged)]), syntax)
    except UnreadableDataset as error:
        assert str(error)


def nested(depth: int) -> bytes:
    """Sequences of undefined length in each other, before any wanted attribute, explicit little endian."""
    sequence = struct.pack("<HH2sHL", 0x0008, 0x0006, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return (sequence + item) * depth


def test_deep_nesting_is_refused_at_once() -> None:
    with pytest.raises(UnreadableDataset, match=f"deeper than {MAX_DEPTH}"):
        read_header(nested(100_000), ExplicitVRLittleEndian)


def test_a_deflate_bomb_costs_no_more_than_the_limit() -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = compressor.compress(bytes(512 * 2**20)) + compressor.flush()
    tracemalloc.start()
    with pytest.raises(UnreadableDataset):
        read_header(bomb, DeflatedExplicitVRLittleEndian)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MAX_INFLATED_HEADER


def test_a_long_value_in_a_wanted_attribute_is_refused() -> None:
    dataset = Dataset()
    dataset.PatientID = "x" * 5000
    with pytest.raises(UnreadableDataset, match="5000 bytes long"):
        read_header(encode(dataset, ImplicitVRLittleEndian), ImplicitVRLittleEndian)


def test_elements_out_of_order_are_refused() -> None:
    twice = struct.pack("<HHL", 0x0010, 0x0020, 0) * 2
    with pytest.raises(UnreadableDataset, match="out of order"):
        read_header(twice, ImplicitVRLittleEndian)


@pytest.mark.real_data
def test_every_odd_file_reads_as_pydicom_reads_it(real_data: Path) -> None:
    compared = 0
    for path in sorted((real_data / "odd").glob("*.dcm")):
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
        if syntax is None or "SOPInstanceUID" not in dataset:
            continue
        content = path.read_bytes()
        header = read_header(content[data_set_at(content) :], syntax)
        assert header.sop_instance_uid == dataset.SOPInstanceUID, path.name
        assert header.series_instance_uid == dataset.SeriesInstanceUID, path.name
        assert header.modality == dataset.Modality, path.name
        compared += 1
    assert compared >= 15


def data_set_at(content: bytes) -> int:
    file = BytesIO(content)
    pydicom.filereader.read_preamble(file, force=False)
    pydicom.filereader._read_file_meta_info(file)
    return file.tell()
