"""From trainings to packages to a report, and the command line over all of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image
from typer.testing import CliRunner

from engine.assessment import fused_slice_probabilities
from engine.packages import M3Metadata, read_package
from networks.jcs import JCSClassifier, JCSJoint, JCSSegmenter
from networks.res2net import Res2NetEncoder
from training.candidates import BaselineSlicesGraph, Candidate, open_candidate
from training.cli import app
from training.datasets.items import GREY_UNKNOWN_WINDOW, HOUNSFIELD, DatasetError, Item, Plane
from training.datasets.pixels import PixelSource
from training.evaluate import evaluate
from training.import_jcs import load_released, renamed
from training.lung_boxes import LungBoxes
from training.measure import SliceResults, measure_patients
from training.outputs import load_trained, save_recipe
from training.package import package_hash
from training.packaging import PackageText, package_jcs, package_m3lung
from training.recipe import RecipeError, parse_recipe
from training.run import train

TRUNK = {"depths": [1, 1, 1, 1], "planes": [16, 16, 16, 16]}
VGG = {"widths": [4, 4, 8, 8, 8], "depths": [1, 1, 1, 1, 1], "encoder_norm": "train"}
RESNET = {"depths": [1, 1, 1, 1], "planes": [4, 4, 4, 4], "stem": 4}
TEXT = PackageText("tiny", "0.1.0", "A. Uthor", "A. Uthor", "Apache-2.0", "A tiny one.")

SMALL: dict[str, dict[str, Any]] = {
    "jcs-classifier": {"network": TRUNK, "image": {"size": 32, "shorter_side": 36}},
    "jcs-segmenter": {"network": VGG, "image": {"size": 32}},
    "m3-slice": {"network": RESNET, "image": {"size": 32, "centre": [-700, -500], "width": [1200, 1200]}},
    "m3-patient": {
        "network": {"head_width": 4, "heads": 2, "norm": "relu_sum"},
        "image": {"size": 32, "centre": [-700, -500], "width": [1200, 1200]},
    },
    "unet": {"network": {"baseline": "unet"}, "image": {"size": 32}},
    "resnet18": {"network": {"baseline": "resnet18"}, "image": {"size": 32}},
    "four": {
        "network": {"baseline": "resnet18"},
        "image": {"size": 32, "centre": [-700, -500], "width": [1200, 1200]},
    },
}
TASKS = {"unet": "jcs-segmenter", "resnet18": "jcs-classifier", "four": "m3-slice"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with masks, and volumes in HU, of all splits."""
    home = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = ["path,patient,label,mask,split,window"]
    for number in range(24):
        label, split = number % 2, ("train", "train", "test")[number // 2 % 3]
        mask = np.zeros((40, 40), np.uint8)
        mask[8:20, 12:26] = 1
        grey = np.where(mask * label > 0, 200, rng.integers(20, 60, (40, 40))).astype(np.uint8)
        Image.fromarray(grey).save(home / f"{number}.png")
        Image.fromarray(mask * np.uint8(label)).save(home / f"{number}m.png")
        lines.append(f"{number}.png,p{number},{label},{number}m.png,{split},-600 1500")
    for number in range(12):
        label, split = number % 4, ("train", "test", "test")[number // 4]
        hu = rng.integers(-900, -800, (4, 48, 48)).astype(np.int16)
        hu[:, :6] = hu[:, -6:] = hu[:, :, :6] = hu[:, :, -6:] = 40
        hu[:, 20 : 24 + 2 * label, 10:20] = -500
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(hu), str(home / f"v{number}.mha"))
        lines.append(f"v{number}.mha,v{number},{label},,{split},")
    (home / "own.csv").write_text("\n".join(lines) + "\n")
    return home / "own.csv"


@pytest.fixture(scope="module")
def trainings(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Outputs of one epoch of every kind."""
    from training.fit import Machine

    home = tmp_path_factory.mktemp("trainings")
    machine = Machine(accelerator="cpu", devices=1, progress=False)
    for name, changes in SMALL.items():
        content: dict[str, Any] = {
            "task": TASKS.get(name, name),
            "batch": 4,
            "epochs": 1,
            "optimiser": {"name": "sgd", "rate": 0.01},
            **changes,
        }
        content["image"] = {
            "size": 32,
            "centre": [-600, -600],
            "width": [1500, 1500],
            **changes.get("image", {}),
        }
        if name == "m3-patient":
            content["start"] = {"slice": str(home / "m3-slice")}
        train(parse_recipe(content, name), data, home / name, machine, cache=home / "cache")
    return {name: home / name for name in SMALL}


@pytest.fixture(scope="module")
def packages(trainings: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One package of each system."""
    home = tmp_path_factory.mktemp("packages")
    package_jcs(home / "jcs", TEXT, trainings["jcs-classifier"], trainings["jcs-segmenter"])
    package_m3lung(home / "m3", TEXT, trainings["m3-slice"], trainings["m3-patient"])
    return {"jcs": home / "jcs", "m3": home / "m3"}


def test_packages_pass_the_checks_of_serving(packages: dict[str, Path]) -> None:
    jcs, m3 = read_package(packages["jcs"]), read_package(packages["m3"])
    assert jcs.sha256 == package_hash(packages["jcs"])
    assert set(jcs.metadata.screening_graphs) <= set(jcs.metadata.graphs)
    assert set(m3.metadata.screening_graphs) == {"slices", "patient"} == set(m3.metadata.graphs)
    metadata = json.loads((packages["jcs"] / "metadata.json").read_text())
    assert metadata["preprocessing"]["crop_fraction"] == pytest.approx(32 / 36)
    assert metadata["networks"]["classify"] == {
        "task": "jcs-classifier",
        "arguments": TRUNK,
        "input_size": 32,
    }
    card = (packages["jcs"] / "MODEL_CARD.md").read_text()
    assert "not a medical device" in card
    assert "manifest" in card


def test_a_package_says_what_its_training_says(packages: dict[str, Path], trainings: dict[str, Path]) -> None:
    """The same slice through the half-precision package and through the training's network."""
    hu = np.random.default_rng(0).integers(-1300, 100, (2, 40, 40)).astype(np.int16)
    for package, training, graph, output in (
        ("jcs", "jcs-classifier", "classify", "probability"),
        ("m3", "m3-slice", "slices", "class_probability"),
    ):
        served = open_candidate(packages[package]).run(graph, hu)[output]
        trained = open_candidate(trainings[training]).run(graph, hu)[output]
        np.testing.assert_allclose(served, trained, atol=5e-3)


def test_without_a_patient_network_the_nonparametric_rule_is_named(
    trainings: dict[str, Path], tmp_path: Path
) -> None:
    package_m3lung(tmp_path / "m3", TEXT, trainings["m3-slice"], None)
    metadata = read_package(tmp_path / "m3").metadata
    assert metadata.screening_graphs == ("slices",)
    assert isinstance(metadata, M3Metadata)
    assert metadata.preprocessing.crop_scope == "slice"  # as the recipe of the training has it


def test_pictures_are_squeezed_and_slices_cut_to_a_square(tmp_path: Path) -> None:
    """Of 40 x 60 nine tenths are 36 x 36, or 36 x 54 of a picture where the candidate says so."""
    picture = Item("t", "p", "s", 0, Plane(tmp_path / "none.png"), GREY_UNKNOWN_WINDOW, 1)
    hu, boxes = np.zeros((40, 60), np.int16), LungBoxes(PixelSource(tmp_path))
    cutting = Candidate("c", "jcs", frozenset({"classify"}), lambda graph, value: {}, "0", crop_fraction=0.9)
    squeezing = replace(cutting, pictures_squeezed=True)
    shapes = [
        np.shape(candidate.crop(hu, item, boxes))
        for candidate in (cutting, squeezing)
        for item in (picture, replace(picture, calibration=HOUNSFIELD))
    ]
    assert shapes == [(36, 36), (36, 36), (36, 54), (36, 36)]


def test_trainings_of_another_task_are_refused(trainings: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a training of m3-slice, needs jcs-classifier"):
        package_jcs(tmp_path / "p", TEXT, trainings["m3-slice"], trainings["jcs-segmenter"])
    with pytest.raises(RecipeError, match="baseline"):
        package_jcs(tmp_path / "p", TEXT, trainings["resnet18"], trainings["jcs-segmenter"])
    cut = tmp_path / "cut"
    shutil.copytree(trainings["jcs-segmenter"], cut)
    recipe = load_trained(cut)[0]
    save_recipe(cut, recipe.model_copy(update={"image": recipe.image.model_copy(update={"lung_crop": True})}))
    with pytest.raises(RecipeError, match="on a box of each slice"):
        package_jcs(tmp_path / "p", TEXT, trainings["jcs-classifier"], cut)
    with pytest.raises(RecipeError, match="no finished training"):
        package_jcs(tmp_path / "p", TEXT, tmp_path, trainings["jcs-segmenter"])


def test_the_report_has_every_level_and_the_published_scores(
    packages: dict[str, Path], trainings: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    paths = [
        packages["jcs"],
        packages["m3"],
        *(trainings[n] for n in ("unet", "resnet18", "four", "m3-patient")),
    ]
    report = evaluate(paths, data, tmp_path / "report", "test", 20).read_text()
    content = json.loads((tmp_path / "report/report.json").read_text())
    found = {name: set(levels) for name, levels in content["candidates"].items()}
    assert found == {
        "tiny": {"slices", "patients", "lesions"},
        "tiny (2)": {"slices", "patients"},
        "unet": {"lesions"},
        "resnet18": {"slices", "patients"},
        "four": {"slices", "patients"},
        "m3-patient": {"slices", "patients"},
    }
    assert content["sha256"]["tiny"] == package_hash(packages["jcs"])
    lesions = content["candidates"]["tiny"]["lesions"]["scores"]
    assert {"dice", "iou", "voe", "volume_similarity", "rvd_percent", "asd", "msd", "e_adaptive", "e_mean",
            "dice_adaptive", "iou_adaptive"} == set(lesions)  # fmt: skip
    four = content["candidates"]["tiny (2)"]["patients"]["scores"]
    assert {"accuracy", "fpe", "fne", "fdpe", "sensitivity_h1n1", "auc_cap"} <= set(four)
    assert content["candidates"]["tiny (2)"]["patients"]["patients"] == 8 + 0
    assert {(p["level"], p["score"], p["first"], p["second"]) for p in content["p_values"]} >= {
        ("lesions", "dice", "tiny", "unet"),
        ("slices", "auc", "tiny", "resnet18"),
    }
    pairs = {frozenset((p["first"], p["second"])) for p in content["p_values"]}
    assert frozenset(("tiny (2)", "four")) in pairs
    assert frozenset(("tiny", "tiny (2)")) not in pairs, "two classes of other cases are no pair with four"
    for text in ("Published, on other data: JCS Table VII", "M3Lung-Sys Table II", "not a medical device"):
        assert text in report
    plots = {p.name for p in (tmp_path / "report").glob("*.png")}
    assert {"roc_slices.png", "confusion_patients_2.png", "dice.png", "dice_size.png"} <= plots
    assert all(f"]({name})" in report for name in plots)


def test_the_classes_of_a_baseline_are_what_eq_4_gives() -> None:
    """Healthy 0.4 against COVID-19 0.6 is COVID-19."""

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.4, 0.6, 1e-9, 1e-9]]).log().expand(len(x), -1)

    graph = BaselineSlicesGraph(Fixed(), 8, (-700, -600, -500), 1200)
    lesion, classes = graph(torch.zeros(2, 8, 8, dtype=torch.int16))
    fused = fused_slice_probabilities(lesion.numpy(), classes.numpy())
    assert fused[1] == pytest.approx([0.4, 0.6, 0, 0], abs=1e-6)


def test_a_training_is_measured_in_the_windows_that_its_package_has(
    trainings: dict[str, Path], tmp_path: Path
) -> None:
    home = tmp_path / "wide"
    shutil.copytree(trainings["m3-slice"], home)
    text = (home / "recipe.yaml").read_text()
    (home / "recipe.yaml").write_text(text.replace("-700", "-740").replace("-500", "-460"))
    package_m3lung(tmp_path / "p", TEXT, home, None, half=False)
    hu = np.random.default_rng(0).integers(-1100, 0, (2, 40, 40)).astype(np.int16)
    ours, served = (open_candidate(path).run("slices", hu) for path in (home, tmp_path / "p"))
    assert ours["features"] == pytest.approx(served["features"], abs=1e-4)


def test_the_order_of_the_items_changes_no_patient(tmp_path: Path) -> None:
    """The patient network gets slices from feet to head, in whatever order a data set lists them."""
    items = [
        Item("t", "p", "s", index, Plane(tmp_path / "v.npy", index), HOUNSFIELD, label=1)
        for index in range(4)
    ]
    given: list[list[float]] = []

    def patient(graph: str, features: np.ndarray) -> dict[str, np.ndarray]:
        given.append(features[:, 0].tolist())
        return {"probability": np.array([0.1, 0.7, 0.1, 0.1])}

    candidate = Candidate("m3", "m3lung", frozenset({"slices", "patient"}), patient, "0" * 64)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        features = [np.full((3, 1), float(index), np.float32) for index in order]
        results = SliceResults(np.zeros((4, 4)), np.zeros((4, 2)), [*features])
        assert measure_patients(candidate, [items[index] for index in order], results, 2) is not None
    assert given == [[0.0, 1.0, 2.0, 3.0]] * 6


def test_an_unknown_split_and_an_empty_one_are_refused(
    packages: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="split must be"):
        evaluate([packages["jcs"]], data, tmp_path / "r", "dev", 10)
    with pytest.raises(DatasetError, match="split val: nothing"):
        evaluate([packages["jcs"]], data, tmp_path / "r", "val", 10)


def released_names(joint: bool) -> list[str]:
    """Names in the files that the authors of JCS released, by the structure of their networks."""
    names = []
    norm = ("weight", "bias", "running_mean", "running_var")
    for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
        for number in range(1, depth + 1):
            layer = f"vgg16.conv{stage}_{number}"
            names += [f"{layer}.conv.{p}" for p in ("weight", "bias")] + [f"{layer}.bn.{p}" for p in norm]
    both = ("weight", "bias")
    for gam in ("gpd", "gpd1"):
        names += [f"{gam}.{c}.conv.{p}" for c in ("expand_conv", "reduce_conv", "end_conv") for p in both]
        names += [f"{gam}.dilation_convs.{i}.{p}" for i in range(4) for p in both]
        names += [f"{gam}.se_block.linear{i}.{p}" for i in (1, 2) for p in both]
    names += [f"fpn.inners_a.{i}.conv.{p}" for i in range(6) for p in both]
    names += [f"fpn.inners_b.{i}.conv.{p}" for i in range(5) for p in both]
    for level in range(5):
        block = f"fpn.fuse.{level}"
        names += [f"{block}.{c}.conv.{p}" for c in ("conv1", "conv2", "reduce_conv") for p in both]
        names += [f"{block}.se{i}.linear{k}.{p}" for i in (1, 2) for k in (1, 2) for p in both]
    names += [f"fpn.fuse.5.conv.{p}" for p in both]
    names += [f"cls{i}.{p}" for i in range(1, 6) for p in both]
    if joint:
        with torch.device("meta"):
            trunk = Res2NetEncoder().state_dict()
        names += [f"res2net.{name}" for name in trunk if not name.endswith("num_batches_tracked")]
        for part in ("cat_modules", "se_modules", "fuse_modules"):
            for level in range(5):
                names += [f"fuse.{part}.{level}.conv.{p}" for p in both]
                names += [f"fuse.{part}.{level}.bn.{p}" for p in (*norm, "num_batches_tracked")]
    return names


@pytest.mark.parametrize("joint", [False, True])
def test_every_released_key_finds_its_place(joint: bool) -> None:
    with torch.device("meta"):
        network = JCSJoint("public") if joint else JCSSegmenter("public")
    own = {
        n for n in network.state_dict() if not (n.startswith("trunk.") and n.endswith("num_batches_tracked"))
    }
    state = {f"module.{name}": torch.zeros(()) for name in released_names(joint)}
    assert len(state) == len(own)
    assert set(renamed(state)) == own


def test_an_unknown_released_key_is_named() -> None:
    with pytest.raises(RecipeError, match=r"does not have: vgg16\.conv6_1\.conv\.weight"):
        renamed({"vgg16.conv6_1.conv.weight": torch.zeros(())})


def test_keys_that_do_not_fit_are_named() -> None:
    network = JCSClassifier((1, 1, 1, 1), (16, 16, 16, 16))
    state = dict(network.state_dict())
    del state["fc.weight"]
    state["head.bias"] = torch.zeros(2)
    state["encoder.bn1.weight"] = torch.zeros(3)
    with pytest.raises(RecipeError, match=r"missing fc\.weight; unexpected head\.bias; of another shape enc"):
        load_released(network, state, frozen=False)


def test_released_frozen_normalisation_has_no_epsilon() -> None:
    """scale = weight / sqrt(variance), also for variances below epsilon."""
    encoder = Res2NetEncoder((1, 1, 1, 1), (16, 16, 16, 16))
    state = {n: v.clone() for n, v in encoder.state_dict().items() if not n.endswith("num_batches_tracked")}
    variance = torch.full_like(state["bn1.running_var"], 4e-6)
    state["bn1.running_var"] = variance
    load_released(encoder, state, frozen=True)
    x = torch.randn(1, 16, 2, 2)
    expected = x / variance.sqrt()[:, None, None]
    assert torch.allclose(encoder.eval().bn1(x), expected, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_released_weights_become_a_package(tmp_path: Path) -> None:
    names = released_names(True)
    reverse = dict(zip(renamed(dict.fromkeys(names, torch.zeros(()))), names, strict=True))
    torch.manual_seed(0)
    state = JCSJoint("public").state_dict()
    released = {reverse[name]: value for name, value in state.items() if name in reverse}
    classifier = {n.removeprefix("encoder."): v for n, v in JCSClassifier().state_dict().items()}
    torch.save(released, tmp_path / "joint.pth")
    torch.save(classifier, tmp_path / "cls.pth")
    arguments = ["package", "import-jcs", str(tmp_path / "joint.pth"), "--out", str(tmp_path / "jcs-public")]
    result = CliRunner().invoke(app, [*arguments, "--classifier", str(tmp_path / "cls.pth")])
    assert result.exit_code == 0, result.exception
    assert read_package(tmp_path / "jcs-public").metadata.name == "jcs-public"


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "joint.pth").write_bytes(b"import os")
    arguments = ["package", "import-jcs", str(tmp_path / "joint.pth"), "--out", str(tmp_path / "p")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, RecipeError)
    assert "cannot be read as weights" in str(result.exception)


def test_commands_from_data_to_report(data: Path, tmp_path: Path) -> None:
    run = CliRunner()
    checked = run.invoke(app, ["datasets", "check", str(data)])
    assert checked.exit_code == 0
    assert "covid19    train" in checked.output
    listed = run.invoke(app, ["datasets", "list"])
    assert "MosMedData" in listed.output
    assert "refused: AIforCOVID" in listed.output
    assert "m3-patient" in run.invoke(app, ["train", "list"]).output
    out = str(tmp_path / "out")
    sets = ["network={baseline: unet}", "image.size=32", "epochs=1", "batch=4"]
    options = [word for s in sets for word in ("--set", s)]
    trained = run.invoke(
        app, ["train", "jcs-segmenter", "--data", str(data), "--out", out, "--workers", "0", *options]
    )
    assert trained.exit_code == 0, trained.exception
    assert "iterations, loss" in trained.output
    arguments = ["evaluate", out, "--data", str(data), "--out", str(tmp_path / "r"), "--resamples", "10"]
    evaluated = run.invoke(app, arguments)
    assert evaluated.exit_code == 0, evaluated.exception
    assert (tmp_path / "r" / "report.md").is_file()


def test_check_ends_with_an_error_code_where_there_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "own.csv").write_text("path,patient,label\na.png,p,0\n")
    result = CliRunner().invoke(app, ["datasets", "check", str(tmp_path / "own.csv")])
    assert result.exit_code == 1
    assert "error:" in result.output
