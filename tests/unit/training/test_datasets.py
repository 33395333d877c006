"""Readers on small trees of each layout, splits, checks, and refusals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from PIL import Image
from pydicom import examples

from training.datasets.check import check, require, require_kinds
from training.datasets.items import GREY_UNKNOWN_WINDOW, Dataset, DatasetError, Item, Plane
from training.datasets.pixels import PixelSource, decode_volume
from training.datasets.registry import READERS, open_dataset
from training.datasets.splits import with_splits


def picture(path: Path, value: int = 100, size: tuple[int, int] = (4, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


def mask(path: Path, values: list[list[int]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


def volume(path: Path, values: npt.NDArray[Any]) -> Path:
    """Values [Z, H, W], feet to head as SimpleITK stores an axial volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(path))
    return path


def ramp(slices: int) -> npt.NDArray[np.int16]:
    """Slice z holds -1000 + z."""
    return (np.arange(slices)[:, None, None] + np.full((slices, 3, 4), -1000)).astype(np.int16)


def counts(dataset: Dataset) -> Counter[tuple[int | None, str | None]]:
    return Counter((item.label, item.split) for item in dataset.items)


@pytest.fixture
def pixels(tmp_path: Path) -> PixelSource:
    return PixelSource(tmp_path / "cache")


def test_covid_ct_original_layout(tmp_path: Path) -> None:
    for folder, lists, names in (("CT_COVID", "COVID", "abc"), ("CT_NonCOVID", "NonCOVID", "de")):
        for name in names:
            picture(tmp_path / folder / f"{name}.png")
        (tmp_path / "Data-split" / lists).mkdir(parents=True)
        (tmp_path / "Data-split" / lists / f"trainCT_{lists}.txt").write_text(f"{names[0]}.png\nabsent.png\n")
        (tmp_path / "Data-split" / lists / f"testCT_{lists}.txt").write_text(f"{names[1]}.png\n")
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {(0, "train"): 1, (0, "test"): 1, (1, "train"): 1, (1, "test"): 1, (1, None): 1}
    assert sum(p.count for p in dataset.problems) == 2
    assert not dataset.patients_known


def test_covid_ct_manifest_layout(tmp_path: Path) -> None:
    picture(tmp_path / "COVID/1.jpg"), picture(tmp_path / "NonCOVID/2.jpg")
    (tmp_path / "manifest.csv").write_text(
        "path,label,split,original_name\n"
        "COVID/1.jpg,COVID,train,2020.01.24.919183-p27-132.png\nNonCOVID/2.jpg,NonCOVID,val,12%1.png\n"
    )
    dataset = open_dataset(tmp_path)
    assert counts(dataset) == {(1, "train"): 1, (0, "val"): 1}
    assert [item.patient for item in dataset.items] == ["2020.01.24.919183", "12"]


def test_sars_cov2(tmp_path: Path) -> None:
    picture(tmp_path / "COVID/a (10).png"), picture(tmp_path / "COVID/a (9).png")
    picture(tmp_path / "non-COVID/b.png")
    dataset = open_dataset(tmp_path)
    assert [item.image.path.name for item in dataset.items] == ["b.png", "a (9).png", "a (10).png"]
    assert any("no patient ids" in str(p) for p in with_splits(dataset).problems)


def test_jcs_list_takes_a_leaked_picture_for_the_test_only(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / f"im/{name}.png"), mask(tmp_path / f"gt/{name}.png", [[0, 1]] * 2)
    (tmp_path / "train.txt").write_text("im/a.png gt/a.png\nim/b.png gt/b.png\n")
    (tmp_path / "test.txt").write_text("im/b.png gt/b.png\n")
    dataset = open_dataset(tmp_path)
    assert {item.patient: item.split for item in dataset.items} == {"a": "train", "b": "test"}
    assert ["more than one list" in str(p) for p in dataset.problems] == [True, False]


def test_a_broken_list_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png b.png\na.png\n")
    with pytest.raises(DatasetError, match=r"train\.txt, line 2"):
        open_dataset(tmp_path)


def test_cc_ccii(tmp_path: Path) -> None:
    for name in ("NCP/1/10/0.png", "NCP/1/10/1.png", "CP/1/11/0.png", "Normal/3/12/0.png"):
        picture(tmp_path / name)
    (tmp_path / "lesions_slices.csv").write_text("imgpath\nNCP/1/10/1.png\n")
    (tmp_path / "exclude.txt").write_text("Normal/3/12\n")
    dataset = open_dataset(tmp_path)
    assert [(i.label, i.lesion, i.index) for i in dataset.items] == [
        (1, False, 0),
        (1, True, 1),
        (3, False, 0),
    ]
    assert len({i.patient for i in dataset.items}) == 2


def test_covid_ctset_in_hu(tmp_path: Path, pixels: PixelSource) -> None:
    home = tmp_path / "p1" / "SR_2"
    home.mkdir(parents=True)
    Image.fromarray(np.full((2, 2), 300, np.uint16)).save(home / "IM1.tif")
    (tmp_path / "Patient_details.csv").write_text("Patient ID,COVID-19 Infection\np1,Positive\np2,Negative\n")
    (item,) = open_dataset(tmp_path).items
    assert (item.label, item.series) == (1, "SR_2")
    assert pixels.hu(item).tolist() == [[-724.0] * 2] * 2


def test_zenodo_calibrates_and_knows_its_patients(tmp_path: Path, pixels: PixelSource) -> None:
    names = ("coronacases_001", "radiopaedia_10_85902_1", "radiopaedia_10_85902_3")
    for name in names:
        volume(tmp_path / f"COVID-19-CT-Seg_20cases/{name}.nii.gz", np.full((2, 3, 4), 102, np.int16))
    volume(tmp_path / f"Infection_Mask/{names[0]}.nii.gz", np.ones((2, 3, 4), np.uint8))
    combined = np.zeros((2, 3, 4), np.uint8)
    combined[1] = [[1, 2, 3, 0]] * 3
    volume(tmp_path / f"Lung_and_Infection_Mask/{names[1]}.nii.gz", combined)
    dataset = open_dataset(tmp_path)
    assert len({item.patient for item in dataset.items}) == 2
    first, *_ = dataset.items
    assert pixels.hu(first)[0, 0] == 102
    windowed = dataset.items[3]
    assert pixels.hu(windowed)[0, 0] == pytest.approx(102 / 255 * 1500 - 1250)
    found = pixels.mask(windowed)
    assert found is not None
    assert found.tolist() == [[False, False, True, False]] * 3
    assert any("no infection mask" in str(p) for p in dataset.problems)


def test_medicalsegmentation_leaves_effusion_out(tmp_path: Path, pixels: PixelSource) -> None:
    volume(tmp_path / "tr_im.nii.gz", ramp(2)), volume(tmp_path / "rp_im/1.nii.gz", ramp(2))
    labels = np.array([[[0, 1, 2, 3]]] * 2, np.uint8).repeat(3, axis=1)
    volume(tmp_path / "tr_mask.nii.gz", labels), volume(tmp_path / "rp_msk/1.nii.gz", labels)
    dataset = open_dataset(tmp_path)
    assert len({i.patient for i in dataset.items if i.source.endswith("1")}) == 2
    assert [i.calibration.exact for i in dataset.items] == [False, False, True, True]
    found = pixels.mask(dataset.items[0])
    assert found is not None
    assert found[0].tolist() == [False, True, True, False]


def test_mosmed(tmp_path: Path) -> None:
    volume(tmp_path / "studies/CT-0/study_0001.nii.gz", ramp(2))
    volume(tmp_path / "studies/CT-1/study_0255.nii.gz", ramp(3))
    volume(tmp_path / "masks/study_0255_mask.nii.gz", np.ones((3, 3, 4), np.uint8))
    dataset = open_dataset(tmp_path)
    assert Counter((i.label, i.lesion, i.mask is not None) for i in dataset.items) == {
        (0, False, False): 2,
        (1, None, True): 3,
    }


def test_covid_ct_md_flags_run_feet_to_head(tmp_path: Path, pixels: PixelSource) -> None:
    volume(tmp_path / "c.nii.gz", ramp(3))
    (tmp_path / "slices.csv").write_text(
        "case,index_cranial_to_caudal,patient_class,infected\nc,0,CAP,1\nc,1,CAP,0\nc,2,CAP,0\n"
    )
    dataset = open_dataset(tmp_path)
    assert [(i.label, i.lesion) for i in dataset.items] == [(3, False), (3, False), (3, True)]
    assert [pixels.hu(i)[0, 0] for i in dataset.items] == [-1000, -999, -998]


def test_a_dicom_folder_faces_as_all_volumes_do(tmp_path: Path) -> None:
    """Stored head to feet, rows to the front: read feet to head, rows to the back, as a mask in NIfTI is."""
    folder = tmp_path / "covid-1"
    folder.mkdir()
    header = examples.ct
    header.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    stored = np.arange(3 * 128 * 128, dtype=np.int16).reshape(3, 128, 128) % 1999
    for number, (plane, height) in enumerate(zip(stored, (40, 20, 0), strict=True)):
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        header.ImagePositionPatient, header.InstanceNumber = [-50, 50, height], number
        header.RescaleSlope, header.RescaleIntercept = 1, -1024
        header.PixelData = plane.tobytes()
        header.save_as(folder / f"{number}.dcm")
    np.testing.assert_array_equal(decode_volume(folder), stored[::-1, ::-1] - 1024)


@pytest.mark.real_data
def test_dicom_folders(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "normal-1").symlink_to(real_data / "ct" / "normal-1")
    dataset = open_dataset(tmp_path / "set")
    assert counts(dataset) == {(0, None): 26}
    assert all(item.calibration.exact for item in dataset.items)


@pytest.mark.real_data
def test_the_real_lists_and_their_leak(real_data: Path) -> None:
    ct100 = open_dataset(real_data / "slices" / "covid-19-ct100")
    assert counts(ct100) == {(1, "train"): 59, (1, "test"): 20}
    assert not check(ct100).errors
    covid_ct = open_dataset(real_data / "slices" / "covid-ct")
    assert len(covid_ct.items) == 746


def test_manifest(tmp_path: Path, pixels: PixelSource) -> None:
    picture(tmp_path / "a.png", 255), mask(tmp_path / "a_mask.png", [[1] * 6] * 4)
    volume(tmp_path / "v.nii.gz", ramp(3))
    path = tmp_path / "own.csv"
    path.write_text(
        "path,patient,label,mask,split,window,slice_labels\n"
        "a.png,p1,covid19,a_mask.png,train,-600 1500,\nv.nii.gz,p2,2,,,,010\n"
    )
    dataset = open_dataset(path)
    first, *slices = dataset.items
    assert (first.label, first.split, first.calibration.exact) == (1, "train", True)
    assert pixels.hu(first)[0, 0] == 150
    assert [(i.label, i.lesion) for i in slices] == [(2, False), (2, True), (2, False)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a.png,p,5,,,", "label must be"),
        ("a.png,p,0,,later,", "split must be"),
        ("a.png,p,0,,,wide", "window must be"),
        ("a.png,,0,,,", "patient is empty"),
        ("b.png,p,0,,,", "is missing"),
        ("v.nii.gz,p,0,w.nii.gz,,", "its volume"),
        ("a.png,p,0,,,-600 1500,,more", "more cells than columns"),
        ("v.nii.gz,p,1,,,,0 1", "slice_labels must be"),
    ],
)
def test_a_bad_manifest_names_the_line(tmp_path: Path, row: str, says: str) -> None:
    picture(tmp_path / "a.png"), volume(tmp_path / "v.nii.gz", ramp(3))
    volume(tmp_path / "w.nii.gz", ramp(2))
    path = tmp_path / "own.csv"
    path.write_text(f"path,patient,label,mask,split,window,slice_labels\n{row}\n")
    with pytest.raises(DatasetError, match=f"line 2: .*{says}"):
        open_dataset(path)


def test_a_manifest_without_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("file,patient\n")
    with pytest.raises(DatasetError, match="no column 'label'"):
        open_dataset(path)


def test_xray_sets_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "AIforCOVID").mkdir()
    with pytest.raises(DatasetError, match="X-rays"):
        open_dataset(tmp_path / "AIforCOVID")


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no known data set"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="is missing"):
        open_dataset(tmp_path / "absent")


def test_a_folder_of_data_sets_is_their_union(tmp_path: Path) -> None:
    picture(tmp_path / "one/COVID/a.png"), picture(tmp_path / "one/non-COVID/a.png")
    picture(tmp_path / "two/im.png"), mask(tmp_path / "two/gt.png", [[0, 1]])
    (tmp_path / "two/train.txt").write_text("im.png gt.png\n")
    assert len(open_dataset(tmp_path).items) == 3


def item(patient: str, split: str | None = None, label: int = 0, path: Path = Path("x.png")) -> Item:
    return Item("test", patient, "s", 0, Plane(path), GREY_UNKNOWN_WINDOW, label, split=split)  # type: ignore[arg-type]


def test_patients_are_split_whole_and_the_same_each_time() -> None:
    items = tuple(item(str(n % 50), label=n % 2) for n in range(400))
    split = with_splits(Dataset("d", items))
    by_patient = {p: {i.split for i in split.items if i.patient == p} for p in {i.patient for i in items}}
    assert all(len(s) == 1 for s in by_patient.values())
    sizes = Counter(next(iter(s)) for s in by_patient.values())
    assert sizes == {"train": 30, "val": 4, "test": 16} or sizes == {"train": 30, "val": 6, "test": 14}
    assert split == with_splits(Dataset("d", items))
    assert split != with_splits(Dataset("d", items), seed=1)


def test_the_split_of_the_source_is_kept() -> None:
    split = with_splits(Dataset("d", (item("a", "test"), item("a"), item("b", "val"))))
    assert [i.split for i in split.items] == ["test", "test", "val"]


def test_check_counts_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    good = picture(tmp_path / "good.png")
    found = check(
        Dataset(
            "d",
            (
                item("a", "train", path=tmp_path / "absent.png"),
                item("b", "train", path=tmp_path / "broken.png"),
                item("c", "train", path=tmp_path / "empty.png"),
                item("d", "train", path=good),
                item("d", "test", path=good),
            ),
        )
    )
    texts = [p.text for p in found.errors]
    assert [next(w for w in ("missing", "cannot", "test and train") if w in t) for t in texts] == [
        "missing",
        "cannot",
        "cannot",
        "test and train",
    ]
    assert found.items == {("healthy", "train"): 4, ("healthy", "test"): 1}
    assert any("one class" in str(p) for p in found.problems)


def test_check_of_masks(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", size=(2, 2))
    masks = {
        "odd": [[0, 7], [0, 0]],
        "empty": [[0, 0], [0, 0]],
        "large": [[1, 1, 1], [1, 1, 1]],
        "fine": [[0, 1], [0, 0]],
    }
    items = tuple(
        Item("t", n, n, 0, Plane(good), GREY_UNKNOWN_WINDOW, 1, mask=Plane(mask(tmp_path / f"{n}.png", v)))
        for n, v in masks.items()
    )
    report = check(Dataset("d", items))
    assert ["large.png is (2, 3), its picture (2, 2)" in p.text for p in report.errors] == [True]
    warnings = [p.text for p in report.problems if not p.serious]
    assert any("other values" in w for w in warnings)
    assert any("empty" in w for w in warnings)


@pytest.mark.parametrize(
    ("needs", "says"),
    [({"classes": (0, 1)}, "no item of class covid19"), ({"masks": True}, "mask"), ({"hu": True}, "HU")],
)
def test_training_needs_are_checked(tmp_path: Path, needs: dict[str, Any], says: str) -> None:
    dataset = Dataset("d", (item("a", path=picture(tmp_path / "a.png")),))
    require(dataset)
    with pytest.raises(DatasetError, match=says):
        require_kinds(dataset, **needs)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.tif", "cut.nii", "cut.nii.gz", "cut.mha"])
def test_a_file_that_breaks_off_is_an_error(tmp_path: Path, name: str) -> None:
    """Its head can be read, so nothing would be noticed before its pixels are wanted."""
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (3, 64, 64)).astype(np.uint8)
    if "nii" in name or "mha" in name:
        volume(path, noise.astype(np.int16))
    else:
        Image.fromarray(noise[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (tmp_path / "own.csv").write_text(f"path,patient,label\n{name},p,1\n")
    (error,) = check(open_dataset(tmp_path / "own.csv")).errors
    assert error.text.startswith(f"{path} cannot be read as a ")


def test_eight_bits_cannot_hold_hu(tmp_path: Path) -> None:
    picture(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 6), 40, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "own.csv").write_text("path,patient,label,window\ngrey.png,p,1,hu\ndeep.png,q,0,hu\n")
    (error,) = check(open_dataset(tmp_path / "own.csv")).errors
    assert (
        error.text
        == f"{tmp_path / 'grey.png'} is an 8-bit picture, but said to hold HU; say its window instead"
    )


def test_check_of_mask_volumes(tmp_path: Path) -> None:
    masks = {"odd": np.full((2, 3, 4), 7), "empty": np.zeros((2, 3, 4)), "fine": np.ones((2, 3, 4))}
    lines = ["path,patient,label,mask"]
    for name, values in masks.items():
        volume(tmp_path / f"{name}.mha", ramp(2)), volume(tmp_path / f"{name}_m.mha", values.astype(np.uint8))
        lines.append(f"{name}.mha,{name},1,{name}_m.mha")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    warnings = [str(p) for p in check(open_dataset(tmp_path / "own.csv")).problems]
    assert ["other values" in w for w in warnings] == [True, False]
    assert ["empty" in w for w in warnings] == [False, True]


def test_lists_in_another_encoding_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "CT_COVID/a.png"), picture(tmp_path / "CT_NonCOVID/b.png")
    (tmp_path / "Data-split/COVID").mkdir(parents=True)
    (tmp_path / "Data-split/COVID/trainCT_COVID.txt").write_bytes("Bjørn.png\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"trainCT_COVID\.txt is not a readable text file"):
        open_dataset(tmp_path)


def test_a_slice_number_that_is_none_names_the_line(tmp_path: Path) -> None:
    volume(tmp_path / "c.nii.gz", ramp(1))
    head = "case,index_cranial_to_caudal,patient_class,infected"
    (tmp_path / "slices.csv").write_text(f"{head}\nc,first,CAP,1\n")
    with pytest.raises(DatasetError, match=r"slices\.csv, line 2: .*first"):
        open_dataset(tmp_path)


def test_palette_masks_are_read_by_index(tmp_path: Path, pixels: PixelSource) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "m.png")
    entry = Item(
        "t", "p", "s", 0, Plane(tmp_path / "m.png"), GREY_UNKNOWN_WINDOW, mask=Plane(tmp_path / "m.png")
    )
    found = pixels.mask(entry)
    assert found is not None
    assert found.tolist() == [[False, True]]


def test_a_volume_is_decoded_once(tmp_path: Path, pixels: PixelSource) -> None:
    path = volume(tmp_path / "v.nii.gz", ramp(3))
    entry = Item("t", "p", "s", 1, Plane(path, 1), GREY_UNKNOWN_WINDOW)
    first = pixels.hu(entry)
    (cached,) = (tmp_path / "cache").iterdir()
    written = cached.stat().st_mtime_ns
    assert np.array_equal(pixels.hu(entry), first)
    assert cached.stat().st_mtime_ns == written


def test_lists_of_feature_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("image/0.mat mask/0.png\n")
    with pytest.raises(DatasetError, match=r"train\.txt lists \.mat files as COVID-CS has them"):
        open_dataset(tmp_path)


def test_every_reader_says_what_it_is_for() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS) == 11
    assert all(reader.use and reader.layout for reader in READERS)
