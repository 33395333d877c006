"""Commands for data sets, training, packaging and evaluation; mounted by the node's command line.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.packaging import PackageText

app = typer.Typer(no_args_is_help=True, add_completion=False)
datasets = typer.Typer(no_args_is_help=True, help="Data sets: which are known, and what is in a folder.")
package = typer.Typer(no_args_is_help=True, help="Turn finished trainings into model packages.")
app.add_typer(datasets, name="datasets")
app.add_typer(package, name="package")

Out = Annotated[Path, typer.Option("--out", help="The package's folder, NAME/; its last part is the name.")]
Full = Annotated[
    bool, typer.Option("--float32", help="Keep weights as float32 instead of rounding them to half.")
]


@dataclass(frozen=True, kw_only=True)
class _Words:
    """The options of a package that say what only people know."""

    version: Annotated[str, typer.Option(help="Version of the package.")] = "1.0.0"
    authors: Annotated[str, typer.Option(help="Who trained it.")] = "not stated"
    licence: Annotated[str, typer.Option("--license", help="Licence of the weights.")] = "not stated"
    description: Annotated[str, typer.Option(help="One sentence for the model card.")] = ""
    about: Annotated[
        Path | None,
        typer.Option(
            help="YAML with `card` (a file beside it), `metrics` and `thresholds` other than the papers'."
        ),
    ] = None

    def of(self, package: Path) -> PackageText:
        from training.packaging import PackageText, read_about

        said = {} if self.about is None else read_about(self.about)
        return PackageText(
            package.name, self.version, self.authors, self.authors, self.licence, self.description, **said
        )


def _described(sentence: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with an argument `words` takes the options of `_Words`, `sentence` the usual description."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        asked = dict(inspect.signature(_Words, eval_str=True).parameters)
        asked["description"] = asked["description"].replace(default=sentence)
        own = dict(inspect.signature(command, eval_str=True).parameters)
        del own["words"]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            words = _Words(**{name: given.pop(name) for name in asked})
            command(words=words, **given)

        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*own.values(), *asked.values())]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="Recipe name or YAML file; `lungnode train list` names them.")
    ],
    data: Annotated[Path | None, typer.Option(help="CSV manifest or data set folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for what the training leaves.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override, e.g. optimiser.rate=0.01")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu")] = "auto",
    devices: Annotated[str, typer.Option(help="auto, or how many")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that load data.")] = 2,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded volumes; default OUT/cache.")] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Iterations between checkpoints; one after each epoch as well.")
    ] = 500,
) -> None:
    """Train a network by a recipe."""
    from training.recipe import built_in_recipes, load_recipe

    if recipe == "list":
        typer.echo("\n".join(built_in_recipes()))
        return
    chosen = load_recipe(recipe, set_ or ())
    if data is None or out is None:
        raise typer.BadParameter("train needs --data and --out")
    from training.fit import Machine
    from training.run import train as run

    machine = Machine(accelerator, int(devices) if devices.isdigit() else devices, workers, checkpoint_every)
    result = run(chosen, data, out, machine, resume, cache)
    typer.echo(
        f"{chosen.task}: {result.steps} iterations, loss {result.first_loss:.4f} -> {result.last_loss:.4f}; "
        f"weights in {out}"
    )


@app.command()
def evaluate(
    packages: Annotated[list[Path], typer.Argument(help="Model packages, or outputs of trainings.")],
    data: Annotated[Path, typer.Option(help="CSV manifest or data set folder.")],
    out: Annotated[Path, typer.Option(help="Folder for report.md, report.json and plots.")],
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    resamples: Annotated[int, typer.Option(min=10, help="Bootstrap resamples.")] = 1000,
    cache: Annotated[Path | None, typer.Option(help="Folder for decoded volumes; default OUT/cache.")] = None,
) -> None:
    """Measure packages on a data set and write a report."""
    from training.evaluate import evaluate as run

    report = run(packages, data, out, split, resamples, cache)
    typer.echo(f"report in {report}")


@datasets.command("list")
def list_datasets() -> None:
    """The data sets that are read, and the layout each is known by."""
    from training.datasets.registry import READERS, REFUSED

    for reader in READERS:
        typer.echo(f"{reader.name}: {reader.use}\n    {reader.layout}")
    typer.echo("CSV manifest: own data\n    path,patient,label[,mask,split,series,window,slice_labels]")
    for name, reason in REFUSED.items():
        typer.echo(f"refused: {name}: {reason}")


@datasets.command("check")
def check_dataset(folder: Annotated[Path, typer.Argument(help="Data set folder or CSV manifest.")]) -> None:
    """What a folder holds: counts per class and split, and what is wrong. Exit code 1 where there are errors."""
    from training.datasets.check import check
    from training.datasets.registry import open_dataset
    from training.datasets.splits import with_splits

    report = check(with_splits(open_dataset(folder)))
    typer.echo(f"{report.name}: {sum(report.items.values())} slices")
    for (label, split), count in sorted(report.items.items()):
        typer.echo(f"  {label:10} {split:8} {count:7} slices {report.patients[label, split]:6} patients")
    for problem in report.problems:
        typer.echo(f"  {problem}")
    if report.errors:
        raise typer.Exit(1)


@datasets.command("simulate")
def simulate_dataset(
    data: Annotated[Path, typer.Option(help="Folder with volumes/, ct/ and slices/ of real CT.")],
    out: Annotated[Path, typer.Option(help="Folder for the pool; a data set for the compact recipes.")],
    cases: Annotated[int, typer.Option(min=0, help="Simulated cases.")] = 200,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pool.")] = 1,
) -> None:
    """Write real slices, figures and simulated lesions with their exact masks as one data set."""
    from training.pool.build import build_pool

    typer.echo(f"{out}: {build_pool(data, out, cases, seed)} slices")


@datasets.command("draw-masks")
def draw_masks(
    pool: Annotated[Path, typer.Argument(help="Pool that `datasets simulate` wrote.")],
    segmenter: Annotated[Path, typer.Option(help="Package or jcs-segmenter training that draws.")],
) -> None:
    """Give ill slices of a pool that have no lesion mask the one that a segmenter draws."""
    from training.pool.drawn import draw_missing_masks

    taken, asked = draw_missing_masks(pool, segmenter)
    typer.echo(f"{pool}: {taken} of {asked} slices got a mask")


@package.command("jcs")
@_described("JCS: slice classifier and lesion segmenter.")
def package_jcs(
    out: Out,
    words: _Words,
    classifier: Annotated[Path, typer.Option(help="Output of a jcs-classifier training.")],
    segmenter: Annotated[Path, typer.Option(help="Output of a jcs-segmenter or jcs-joint training.")],
    float32: Full = False,
) -> None:
    """Package the two trainings of JCS."""
    from training.packaging import package_jcs as run

    typer.echo(f"{out}: {run(out, words.of(out), classifier, segmenter, half=not float32)}")


@package.command("m3lung")
@_described("M3Lung-Sys: four-class slice network and patient assessment.")
def package_m3lung(
    out: Out,
    words: _Words,
    slices: Annotated[Path, typer.Option(help="Output of an m3-slice training.")],
    patient: Annotated[Path | None, typer.Option(help="Output of an m3-patient training.")] = None,
    float32: Full = False,
) -> None:
    """Package the trainings of M3Lung-Sys; without --patient the non-parametric rule decides."""
    from training.packaging import package_m3lung as run

    typer.echo(f"{out}: {run(out, words.of(out), slices, patient, half=not float32)}")


@package.command("onnx")
def package_onnx(
    out: Out,
    graph: Annotated[Path, typer.Argument(metavar="FILE", help="The exported network, FILE.onnx.")],
    metadata: Annotated[Path, typer.Option(help="YAML or JSON that describes it: docs/own-model.md.")],
    weights: Annotated[
        list[Path] | None, typer.Option(help="File of external weights that the ONNX names; repeatable.")
    ] = None,
) -> None:
    """Package a network of your own, exported as ONNX; it is run once on made-up slices to see that all fits."""
    from engine.own_model.packaging import package_own_model, read_description

    done = package_own_model(out, graph, read_description(metadata), weights or ())
    typer.echo(f"{out}: {done.sha256}")
    typer.echo(f"tried on made-up slices: {done.said}")


@package.command("import-jcs")
def import_jcs(
    weights: Annotated[Path, typer.Argument(help="joint.pth or the single segmentation weights.")],
    out: Out,
    classifier: Annotated[Path | None, typer.Option(help="Weights of the released classifier.")] = None,
    float32: Full = False,
) -> None:
    """Package the weights that the authors of JCS released; you download them."""
    from training.import_jcs import import_jcs as run

    typer.echo(f"{out}: {run(out, weights, classifier, half=not float32)}")
