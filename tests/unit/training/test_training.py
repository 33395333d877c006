"""Training: recipes, samples, and for every recipe a loss that goes down and a resume that is bit-equal."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from lightning.fabric import Fabric
from PIL import Image
from safetensors.torch import load_file

from networks.jcs import JCSClassifier
from training.datasets.items import GREY_UNKNOWN_WINDOW, DatasetError, Item, Plane
from training.datasets.pixels import PixelSource
from training.fit import Machine, TrainingStopped
from training.outputs import load_checkpoint, load_trained, save_checkpoint
from training.preprocessing import normalise_grey
from training.recipe import Recipe, RecipeError, built_in_recipes, load_recipe
from training.run import train
from training.samples import SliceSamples, batches
from training.speed import main as speed
from training.tasks import SliceTraining, build_network, partners

QUIET = Machine(accelerator="cpu", devices=1, progress=False, log_every=1)
SIZE = 32

TRUNK = "{depths: [1, 1, 1, 1], planes: [16, 16, 16, 16]}"
VGG = "{widths: [4, 4, 8, 8, 8], depths: [1, 1, 1, 1, 1], encoder_norm: train}"
SMALL = {
    "jcs-classifier": (
        f"network={TRUNK}",
        "image.shorter_side=36",
        "optimiser.rate=0.02",
        "schedule.name=constant",
        "mixup.alpha=0",
        "guidance.form=mse",
    ),
    "jcs-segmenter": (f"network={VGG}", "optimiser.rate=0.003", "schedule.warmup=0"),
    "jcs-joint": (
        f"network={{segmenter: {VGG}, trunk: {TRUNK}}}",
        "optimiser.rate=0.003",
        "schedule.warmup=0",
    ),
    "m3-slice": ("network={depths: [1, 1, 1, 1], planes: [4, 4, 4, 4], stem: 4}", "image.lung_crop=false"),
    "m3-patient": (
        "network={head_width: 4, heads: 2, norm: relu_sum}",
        "image.lung_crop=false",
        "optimiser.rate=0.01",
    ),
}
COMMON = (f"image.size={SIZE}", "batch=4", "epochs=6", "augmentation={flip: 0.5}")


def slices(label: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dark slices; the ill ones have a bright square, the lesion."""
    pixels = rng.integers(20, 60, (count, 40, 40))
    mask = np.zeros((count, 40, 40), np.uint8)
    if label:
        mask[:, 8 : 16 + 8 * (label > 1), 12:26] = 1
    return np.where(mask > 0, 200, pixels).astype(np.uint8), mask


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 24 pictures of two classes with masks; 16 train, 4 val, 4 test."""
    home = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = ["path,patient,label,mask,split,window"]
    for number in range(24):
        label = number % 2
        values, mask = slices(label, 1, rng)
        Image.fromarray(values[0]).save(home / f"{number}.png")
        Image.fromarray(mask[0]).save(home / f"{number}m.png")
        split = "train" if number < 16 else "val" if number < 20 else "test"
        lines.append(f"{number}.png,p{number},{label},{number}m.png,{split},-600 1500")
    (home / "own.csv").write_text("\n".join(lines) + "\n")
    return home / "own.csv"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 8 volumes in HU of two classes."""
    home = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(1)
    lines = ["path,patient,label,split"]
    for number in range(8):
        values, _ = slices(number % 2, 5, rng)
        hu = values.astype(np.int16) * 5 - 1000
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(hu), str(home / f"{number}.mha"))
        lines.append(f"{number}.mha,p{number},{number % 2},train")
    (home / "own.csv").write_text("\n".join(lines) + "\n")
    return home / "own.csv"


@pytest.fixture(scope="module")
def slice_training(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Output of a small m3-slice training."""
    out = tmp_path_factory.mktemp("slices") / "out"
    train(recipe_for("m3-slice", ("epochs=1",)), pictures, out, QUIET)
    return out


def recipe_for(name: str, more: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(name, (*COMMON, *SMALL[name], *more))


@pytest.mark.parametrize("name", ["jcs-classifier", "jcs-segmenter", "jcs-joint", "m3-slice", "m3-patient"])
def test_every_recipe_lowers_its_loss_and_resumes_bit_equal(
    name: str, pictures: Path, volumes: Path, slice_training: Path, tmp_path: Path
) -> None:
    data = volumes if name == "m3-patient" else pictures
    more = (f"start.slice={slice_training}", "epochs=12") if name == "m3-patient" else ()
    recipe = recipe_for(name, more)
    whole = train(recipe, data, tmp_path / "whole", QUIET, cache=tmp_path / "cache")
    assert whole.finished
    assert whole.last_loss < whole.first_loss

    cut = Machine(**{**QUIET.__dict__, "stop_after": 7})
    first = train(recipe, data, tmp_path / "cut", cut, cache=tmp_path / "cache")
    assert (first.steps, first.finished) == (7, False)
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    rest = train(recipe, data, tmp_path / "cut", QUIET, resume=True, cache=tmp_path / "cache")
    assert rest.steps == whole.steps

    ours, theirs = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "cut"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = [(tmp_path / run / "log.csv").read_text() for run in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_the_options_of_the_compact_recipes_resume_bit_equal(pictures: Path, tmp_path: Path) -> None:
    """Average, one cycle, mask heads, free views, drawn shares, bfloat16, start weights, a teacher."""
    train(recipe_for("jcs-classifier", ("epochs=1",)), pictures, tmp_path / "first", QUIET)
    more = (
        "augmentation={flip: 0.5, free_view: true, zoom: [0.7, 1.0], whole_share: 0.3, turn: 5, noise: 20}",
        "average=0.8",
        "schedule.name=onecycle",
        "supervision.weight=0.5",
        "classes={lesion_free: true, others: 0.2, smoothing: 0.05}",
        "shares={manifest/covid19: 2, manifest/healthy: 1}",
        "precision=bf16-mixed",
        "iterations=8",
        f"start.training={tmp_path / 'first'}",
        f"distillation={{teachers: [{tmp_path / 'first'}], hints: 0.5}}",
    )
    recipe = recipe_for("jcs-classifier", more)
    train(recipe, pictures, tmp_path / "whole", QUIET)
    train(recipe, pictures, tmp_path / "cut", Machine(**{**QUIET.__dict__, "stop_after": 5}))
    train(recipe, pictures, tmp_path / "cut", QUIET, resume=True)
    ours, theirs = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "cut"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not any("mask_heads" in key for key in ours)
    averaged = load_checkpoint(tmp_path / "whole")["average"]
    assert torch.equal(ours["fc.weight"], averaged["module.fc.weight"])
    with (tmp_path / "whole/log.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"classification", "supervision", "guidance", "teachers", "hints"} <= names


def test_a_start_that_is_no_training_is_named(pictures: Path, tmp_path: Path) -> None:
    recipe = recipe_for("jcs-classifier", (f"start.training={tmp_path / 'none'}",))
    with pytest.raises(RecipeError, match=r"start\.training: .*none is no finished training"):
        train(recipe, pictures, tmp_path / "out", QUIET)


def test_a_patient_left_out_is_not_trained_on(pictures: Path, tmp_path: Path) -> None:
    train(
        recipe_for("jcs-classifier", ("epochs=1", "without=[p0, p1, p16]")), pictures, tmp_path / "out", QUIET
    )
    summary = json.loads((tmp_path / "out/training.json").read_text())
    assert summary["slices"] == {"train": 14, "val": 3, "test": 4}


def test_what_is_wanted_of_other_pneumonias_and_of_lesions_cropped_away() -> None:
    recipe = recipe_for("jcs-classifier", ("classes={lesion_free: true, others: 0.2, smoothing: 0.1}",))
    module = SliceTraining(build_network(recipe), recipe)
    batch = batch_of(4, 2)
    batch["label"] = torch.tensor([1, 1, 3, 0])
    batch["mask"][1] = 0
    wanted = module._wanted(batch)[:, 1]
    assert torch.allclose(wanted, torch.tensor([0.95, 0.05, 0.2 * 0.9 + 0.05, 0.05]))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_training_resumes_to_the_same_weights(pictures: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as there is a checkpoint, whatever it is doing then."""
    recipe = [
        "jcs-segmenter",
        "--data",
        str(pictures),
        "--workers",
        "0",
        "--accelerator",
        "cpu",
        "--devices",
        "1",
    ]
    changes = (*COMMON, *SMALL["jcs-segmenter"], "epochs=8")
    options = [word for change in changes for word in ("--set", change)]
    command = [sys.executable, "-c", "from node.cli import main; main()", "train", *recipe, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for run in ("whole", "killed"):
        arguments = [*command, "--out", str(tmp_path / run), "--checkpoint-every", "3"]
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
        if run == "killed":
            while not (tmp_path / run / "last.ckpt").exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -signal.SIGKILL
            process = subprocess.Popen([*arguments, "--resume"], env=environment, stdout=subprocess.DEVNULL)
        assert process.wait() == 0
    ours, theirs = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_training_leaves_what_a_package_needs(pictures: Path, tmp_path: Path) -> None:
    train(recipe_for("jcs-classifier", ("epochs=1",)), pictures, tmp_path / "out", QUIET)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "last.ckpt",
        "log.csv",
        "recipe.yaml",
        "tensorboard",
        "training.json",
        "weights.safetensors",
    }
    summary = json.loads((tmp_path / "out/training.json").read_text())
    assert summary["slices"] == {"train": 16, "val": 4, "test": 4}
    with (tmp_path / "out/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(r["split"], r["name"]) for r in rows} == {
        ("train", "loss"),
        ("train", "classification"),
        ("train", "guidance"),
        ("train", "rate"),
        ("val", "loss"),
    }
    recipe, network = load_trained(tmp_path / "out")
    assert recipe == recipe_for("jcs-classifier", ("epochs=1",))
    assert isinstance(network, JCSClassifier)
    assert not network.training


def test_an_output_is_not_overwritten_nor_resumed_with_another_recipe(pictures: Path, tmp_path: Path) -> None:
    recipe, out = recipe_for("jcs-segmenter", ("epochs=1",)), tmp_path / "out"
    with pytest.raises(RecipeError, match=r"no last\.ckpt"):
        train(recipe, pictures, out, QUIET, resume=True)
    train(recipe, pictures, out, QUIET)
    with pytest.raises(RecipeError, match="--resume"):
        train(recipe, pictures, out, QUIET)
    with pytest.raises(RecipeError, match="another recipe"):
        train(recipe_for("jcs-segmenter", ("epochs=2",)), pictures, out, QUIET, resume=True)


def test_a_loss_that_is_not_finite_stops_and_says_what_to_do(pictures: Path, tmp_path: Path) -> None:
    recipe = recipe_for("jcs-segmenter", ("optimiser.rate=1e30", "optimiser.name=sgd"))
    with pytest.raises(TrainingStopped, match=r"not finite at iteration \d+ .*optimiser\.rate"):
        train(recipe, pictures, tmp_path / "out", QUIET)


def test_the_patient_network_names_its_stable_norm(
    volumes: Path, slice_training: Path, tmp_path: Path
) -> None:
    more = (f"start.slice={slice_training}", "network.norm=sum", "optimiser.rate=1e30")
    with pytest.raises(TrainingStopped, match=r"network\.norm=relu_sum"):
        train(recipe_for("m3-patient", more), volumes, tmp_path / "out", QUIET)


def test_features_are_computed_before_the_patient_network_is_trained(
    volumes: Path, slice_training: Path, tmp_path: Path
) -> None:
    recipe = recipe_for("m3-patient", (f"start.slice={slice_training}",))
    not_a_step = Machine(**{**QUIET.__dict__, "stop_after": 0})
    train(recipe, volumes, tmp_path / "out", not_a_step, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache/features").glob("*.npy"))) == 8


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, {"step": 2})
    assert load_checkpoint(tmp_path) == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_training_on_a_full_disk_says_so_and_goes_on_later(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = recipe_for("jcs-segmenter", ("epochs=2",)), tmp_path / "out"

    def full_from_the_fifth(directory: Path, state: dict[str, Any]) -> None:
        if state["step"] > 4:
            raise OSError(28, "No space left on device")
        save_checkpoint(directory, state)

    with monkeypatch.context() as patched:
        patched.setattr("training.fit.save_checkpoint", full_from_the_fifth)
        with pytest.raises(TrainingStopped, match=r"out cannot be written: No space left .*--resume"):
            train(recipe, pictures, out, QUIET)
    assert load_checkpoint(out)["step"] == 4
    assert train(recipe, pictures, out, QUIET, resume=True).finished


def test_the_loss_scale_of_half_precision_is_resumed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doubles every third step, so that a resumed run which began anew with it would be behind."""

    class Scaled(Fabric):
        def launch(self, *arguments: Any, **options: Any) -> None:
            super().launch(*arguments, **options)
            self.strategy.precision.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)

    monkeypatch.setattr("training.fit.Fabric", Scaled)
    recipe = recipe_for("jcs-segmenter", ("iterations=7", "precision=bf16-mixed"))
    train(recipe, pictures, tmp_path / "whole", QUIET)
    train(recipe, pictures, tmp_path / "cut", Machine(**{**QUIET.__dict__, "stop_after": 4}))
    train(recipe, pictures, tmp_path / "cut", QUIET, resume=True)
    whole, cut = (load_checkpoint(tmp_path / run)["precision"] for run in ("whole", "cut"))
    assert whole == cut
    assert whole["scale"] == 16.0


def test_a_start_of_another_task_or_a_baseline_is_named(
    pictures: Path, volumes: Path, slice_training: Path, tmp_path: Path
) -> None:
    joint = recipe_for("jcs-joint", (f"start.classifier={slice_training}",))
    with pytest.raises(RecipeError, match="is a training of m3-slice, needs jcs-classifier"):
        train(joint, pictures, tmp_path / "joint", QUIET)
    baseline = recipe_for("m3-slice", ("network={baseline: resnet18}", "epochs=1", "batch=16"))
    train(baseline, pictures, tmp_path / "baseline", QUIET)
    patient = recipe_for("m3-patient", (f"start.slice={tmp_path / 'baseline'}",))
    with pytest.raises(RecipeError, match=r"start\.slice: .*baseline is a baseline"):
        train(patient, volumes, tmp_path / "patient", QUIET)
    other = (f"start.slice={slice_training}", "image.centre=[-800, -600]", "image.lung_margin=3")
    with pytest.raises(RecipeError, match=r"image: centre, lung_margin not as in "):
        train(recipe_for("m3-patient", other), volumes, tmp_path / "patient", QUIET)


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"half a checkpoint")
    with pytest.raises(RecipeError, match=r"last\.ckpt cannot be read"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("0,", "no item of class healthy"),
        ("one", "split train: no item of class healthy"),
        ("mask", "no item has a lesion mask"),
        ("empty", "training split"),
    ],
)
def test_unfit_data_is_refused_before_training(
    pictures: Path, tmp_path: Path, change: str, says: str
) -> None:
    name = "jcs-classifier"
    head, *rows = pictures.read_text().strip().split("\n")
    cells = [row.split(",") for row in rows]
    if change == "0,":
        cells = [c for c in cells if c[2] == "1"]
    elif change == "one":
        cells = [c for c in cells if c[2] == "1" or c[4] != "train"]
    elif change == "mask":
        name, cells = "jcs-segmenter", [[*c[:3], "", *c[4:]] for c in cells]
    else:
        cells = [[*c[:4], "test", c[5]] for c in cells]
    cells = [
        [str(pictures.parent / c[0]), c[1], c[2], c[3] and str(pictures.parent / c[3]), *c[4:]] for c in cells
    ]
    path = tmp_path / "own.csv"
    path.write_text("\n".join([head, *(",".join(c) for c in cells)]) + "\n")
    with pytest.raises(DatasetError, match=says):
        train(recipe_for(name), path, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_recipes_hold_what_the_papers_print() -> None:
    papers = ("jcs-classifier", "jcs-joint", "jcs-segmenter", "m3-patient", "m3-slice")
    compact = tuple(f"compact/{name}" for name in (*papers[:1], papers[2], "jcs-teacher", *papers[3:]))
    assert built_in_recipes() == (*compact, *papers)
    classifier, segmenter, slice_net, patient = (
        load_recipe(n) for n in ("jcs-classifier", "jcs-segmenter", "m3-slice", "m3-patient")
    )
    assert (classifier.batch, classifier.epochs, classifier.mixup.alpha) == (256, 100, 0.5)
    assert [classifier.rate_at(e * 10, 10) for e in (0, 29, 30, 60, 90)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.001, 0.0001]
    )
    assert (segmenter.batch, segmenter.iterations) == (4, 21000)
    assert [slice_net.rate_at(e, 1) for e in (0, 40, 80)] == pytest.approx([0.01, 0.001, 0.0001])
    assert [patient.rate_at(e, 1) for e in (29, 30)] == pytest.approx([0.001, 0.0001])


def test_poly_schedule_by_hand() -> None:
    """2.5e-5 at 0, 1.3397e-5 half way, 3.22e-9 at the end; the warm-up starts from a tenth."""
    recipe = load_recipe("jcs-segmenter", ("schedule.warmup=0",))
    rates = [recipe.rate_at(step, 698) for step in (0, 10_500, 20_999)]
    assert rates == pytest.approx([2.5e-5, 1.3397e-5, 3.22e-9], rel=1e-3)
    warm = load_recipe("jcs-segmenter")
    assert warm.rate_at(0, 698) == pytest.approx(2.5e-6)
    assert warm.rate_at(200, 698) == recipe.rate_at(200, 698)


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("no-such", (), "neither a file nor one of"),
        ("m3-slice", ("batch=0",), "batch"),
        ("m3-slice", ("optimiser.speed=1",), r"optimiser\.speed"),
        ("m3-slice", ("batch",), "key=value"),
        ("m3-slice", ("network=3",), "network"),
        ("m3-slice", ("batch.size=3",), "batch is no section"),
        ("m3-slice", ("image={size: 3",), r"override 'image=.* is no YAML"),
    ],
)
def test_a_bad_recipe_names_the_key(name: str, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe(name, overrides)


def test_overriding_the_length_replaces_the_other_kind() -> None:
    assert load_recipe("jcs-segmenter", ("epochs=3",)).iterations is None


def test_a_network_argument_that_does_not_exist_is_named() -> None:
    with pytest.raises(RecipeError, match="dephts"):
        build_network(load_recipe("jcs-classifier", ("network.dephts=[1]",)))


@pytest.mark.parametrize("task", ["jcs-classifier", "m3-slice", "jcs-segmenter"])
def test_baselines_train_under_the_same_tasks(task: str, pictures: Path, tmp_path: Path) -> None:
    name = "unet" if task == "jcs-segmenter" else "resnet18"
    more = (f"network={{baseline: {name}}}", "guidance.beta=0", "epochs=1", "batch=8")
    assert train(recipe_for(task, more), pictures, tmp_path / "out", QUIET).finished


def test_the_speed_of_loader_and_step_is_printed(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [*COMMON, *SMALL["jcs-segmenter"]]
    speed("jcs-segmenter", pictures, changes, steps=1, threads=1)
    said = capsys.readouterr().out
    loader, step = (float(found) for found in re.findall(r"([\d.]+) slices/s", said))
    assert loader > 0
    assert step > 0


def test_every_epoch_is_a_permutation_and_a_resumed_run_sees_the_rest() -> None:
    recipe = load_recipe("m3-slice", ("batch=3",))
    keys = list(batches(9, recipe, 0, 6))
    for epoch in (0, 1):
        seen = [key for batch in keys[epoch * 3 : epoch * 3 + 3] for key in batch]
        assert sorted(seen) == [(epoch, place) for place in range(9)]
    assert [p for _, p in keys[0] + keys[1] + keys[2]] != [p for _, p in keys[3] + keys[4] + keys[5]]
    assert list(batches(9, recipe, 4, 6)) == keys[4:]
    assert [len(batch) for batch in batches(2, recipe, 0, 1)] == [2]


def test_keys_are_drawn_as_they_are_wanted() -> None:
    endless = batches(9, load_recipe("m3-slice", ("batch=3",)), 0, 10**15)
    assert next(endless) == next(batches(9, load_recipe("m3-slice", ("batch=3",)), 0, 1))


def sample_of(
    tmp_path: Path, recipe: Recipe, training: bool, key: tuple[int, int] = (0, 0), label: int = 1
) -> Any:
    """A picture of 40 x 60: grey = column, mask = right half."""
    columns = np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))
    Image.fromarray(columns).save(tmp_path / "im.png")
    Image.fromarray((columns >= 120).astype(np.uint8)).save(tmp_path / "gt.png")
    item = Item(
        *("t", "p", "s", 0, Plane(tmp_path / "im.png"), GREY_UNKNOWN_WINDOW),
        label=label,
        mask=Plane(tmp_path / "gt.png"),
    )
    return SliceSamples([item], PixelSource(tmp_path / "cache"), recipe, training)[key]


def test_a_sample_without_augmentation_is_the_centred_crop(tmp_path: Path) -> None:
    recipe = load_recipe("jcs-classifier", ("image.shorter_side=40", "image.size=20"))
    sample = sample_of(tmp_path, recipe, training=False)
    assert sample["grey"].shape == sample["mask"].shape == (1, 20, 20)
    expected = torch.arange(20, 40) * 4 / 255
    assert torch.allclose(sample["grey"][0, 0], expected, atol=1e-5)
    assert sample["mask"][0, 0].tolist() == [0.0] * 10 + [1.0] * 10


def test_pictures_are_squeezed_where_the_recipe_says_so(tmp_path: Path) -> None:
    """The middle half of 40 x 60 is columns 15 to 45, 1.5 of them in each of 20."""
    image = "image={shorter_side: 40, size: 20, pictures_squeezed: true, centre: [-600, -600], width: [1500, 1500]}"
    recipe = load_recipe("jcs-classifier", (image, "augmentation.free_view=true"))
    sample = sample_of(tmp_path, recipe, training=False)
    middles = 15 + (torch.arange(20) + 0.5) * 1.5 - 0.5
    assert torch.allclose(sample["grey"][0, 0], middles * 4 / 255, atol=1e-5)
    assert sample["mask"][0, 0].tolist() == [0.0] * 10 + [1.0] * 10


def test_image_and_mask_are_augmented_alike_and_repeatably(tmp_path: Path) -> None:
    recipe = load_recipe("jcs-classifier", ("image.shorter_side=40", "image.size=20"))
    seen = set()
    for epoch in range(12):
        sample = sample_of(tmp_path, recipe, True, (epoch, 0))
        bright = sample["grey"][0, 0] * 255 / 4 > 29.5
        assert torch.equal(bright, sample["mask"][0, 0] > 0)
        again = sample_of(tmp_path, recipe, True, (epoch, 0))
        assert torch.equal(sample["grey"], again["grey"])
        seen.add(tuple(sample["grey"][0, 0].tolist()))
    assert len(seen) > 6


def test_the_window_is_drawn_for_training_and_its_middle_taken_else(tmp_path: Path) -> None:
    recipe = load_recipe("m3-slice", ("image.size=40", "augmentation.flip=0"))
    fixed = sample_of(tmp_path, recipe, training=False)["grey"]
    hu = torch.arange(60) * 4 / 255 * 1500 - 1350
    middle = torch.clamp((hu + 1200) / 1200, 0, 1)
    assert torch.allclose(fixed[0, 0, 19], middle[29:30].squeeze(), atol=0.02)
    drawn = {float(sample_of(tmp_path, recipe, True, (epoch, 0))["grey"].mean()) for epoch in range(5)}
    assert len(drawn) == 5


def batch_of(count: int, masks: int) -> Any:
    torch.manual_seed(1)
    has = torch.arange(count) < masks
    return {
        "grey": torch.rand(count, 1, 64, 64),
        "mask": (torch.rand(count, 1, 64, 64) > 0.5).float() * has[:, None, None, None],
        "has_mask": has,
        "label": torch.arange(count) % 2,
        "source": torch.arange(count) % 2,
        "picture": torch.arange(count) < 2,
        "only_not_covid19": torch.zeros(count, dtype=torch.bool),
    }


def test_of_slices_that_are_only_known_not_to_show_covid19_just_that_is_learnt() -> None:
    """By hand: softmax of (0, ln 2, 0, 0) gives COVID-19 2/5, so -log(1 - 2/5); cross-entropies of equal logits."""
    recipe = recipe_for("m3-slice", ("guidance.beta=0", "classes.only_not_covid19=[figures]"))
    module = SliceTraining(build_network(recipe), recipe)
    with torch.no_grad():
        for head in (module.network.class_head, module.network.lesion_head):
            head.weight.zero_()
            if head.bias is not None:
                head.bias.zero_()
        module.network.class_head.bias[1] = np.log(2)
    batch = {**batch_of(4, 0), "label": torch.tensor([0, 0, 0, 3])}
    known = np.log(2) + np.log(5)  # any disease: one of two; healthy or CAP: 1/5
    assert float(module(batch, 0)["classification"].detach()) == pytest.approx(known, rel=1e-4)
    batch["only_not_covid19"] = torch.tensor([True, False, False, False])
    mixed = (3 * known + np.log(5 / 3)) / 4
    assert float(module(batch, 0)["classification"].detach()) == pytest.approx(mixed, rel=1e-4)


@pytest.mark.parametrize(("source", "label", "expected"), [("t", 0, True), ("t", 1, False), ("u", 0, False)])
def test_slices_without_covid19_of_a_data_set_that_a_recipe_names_may_show_another_disease(
    source: str, label: int, expected: bool, tmp_path: Path
) -> None:
    recipe = load_recipe("m3-slice", ("image.size=40", f"classes.only_not_covid19=[{source}]"))
    sample = sample_of(tmp_path, recipe, training=False, label=label)
    assert bool(sample["only_not_covid19"]) is expected


def test_mixup_is_the_mix_of_images_and_of_losses(tmp_path: Path) -> None:
    """Same random numbers as the task: one share from Beta(0.5, 0.5), then a permutation."""
    recipe = recipe_for("jcs-classifier", ("mixup.alpha=0.5", "guidance.beta=0"))
    module = SliceTraining(build_network(recipe), recipe).train()
    batch = batch_of(4, 0)
    captured = []
    module.network.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    loss = float(module(batch, 3)["loss"].detach())
    rng = np.random.default_rng([recipe.seed, 3])
    share = rng.beta(0.5, 0.5)
    order = torch.from_numpy(rng.permutation(4))
    images = normalise_grey(batch["grey"])
    mixed = share * images + (1 - share) * images[order]
    assert torch.allclose(captured[0], mixed, atol=1e-5)
    labels = torch.nn.functional.one_hot(batch["label"], 2) * share
    labels = labels + torch.nn.functional.one_hot(batch["label"][order], 2) * (1 - share)
    soft = -(labels * module.network(mixed).log_softmax(1)).sum(1).mean()
    assert loss == pytest.approx(float(soft.detach()), rel=1e-3)


def test_mixing_across_sources_finds_a_partner_of_another_source() -> None:
    source = torch.tensor([0, 0, 0, 1])
    for seed in range(20):
        chosen = partners(source, np.random.default_rng(seed), across_sources=True)
        assert (source[chosen] != source).all()
    alone = partners(torch.zeros(4), np.random.default_rng(0), across_sources=True)
    assert sorted(alone.tolist()) == [0, 1, 2, 3]


def test_a_mixed_batch_without_masks_has_a_gradient_for_every_mask_head() -> None:
    """Several devices wait for the gradients of all parameters."""
    recipe = recipe_for("jcs-classifier", ("mixup.alpha=0.5", "guidance.beta=0", "supervision.weight=1"))
    module = SliceTraining(build_network(recipe), recipe).train()
    losses = module(batch_of(4, 0), 0)
    losses["loss"].backward()
    assert float(losses["supervision"].detach()) == 0
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_guidance_on_either_grid_by_hand() -> None:
    """Map 0 / 1 in the halves against a mask of the right half, of which a quarter is missing."""
    am = torch.tensor([[[0.0, 3.0], [0.0, 3.0]]])
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    mask[..., 0, 2:] = 0
    losses = {}
    for grid in ("mask", "feature"):
        recipe = recipe_for("jcs-classifier", (f"guidance.grid={grid}",))
        losses[grid] = float(SliceTraining(build_network(recipe), recipe)._map_loss(am, mask))
    # Averaged the mask is 0, 0.5 / 0, 1: one cell of four is off by a half.
    assert losses["feature"] == pytest.approx(0.25 / 4)
    # Bilinear columns are 0, 1/4, 3/4, 1; the first row of the right half is off by 3/4 and 1, the others by 1/4 and 0.
    assert losses["mask"] == pytest.approx((4 * 0.25**2 + 0.75**2 + 1 + 3 * 0.25**2) / 16)


def test_guidance_counts_only_images_with_a_mask() -> None:
    recipe = recipe_for("jcs-classifier", ("guidance.beta=2",))
    module = SliceTraining(build_network(recipe), recipe).eval()
    with torch.no_grad():
        none, some = module(batch_of(4, 0), 0), module(batch_of(4, 2), 0)
    assert "guidance" not in none
    assert float(some["loss"]) == pytest.approx(float(some["classification"] + 2 * some["guidance"]))
