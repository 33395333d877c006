"""Speed of the engines: both systems, full size or compact, random weights, against PyTorch eager FP32.

    python benchmarks/engines.py --size full --slices 24 --rounds 3 --report docs/engines-benchmark.md

Every backend is measured in the same run, round by round in turn, so that a busy moment meets all of them. Figures
are medians per slice, by the wall clock and in processor time of all threads, which a busy machine disturbs less; a
study is 300 slices. Packages are exported once to `--work`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.errors import EngineError
from engine.packages import ModelPackage, read_package
from engine.runners.interface import EngineOptions, Runner, RunnerOptions
from engine.runners.openvino_runner import OpenVINORunner
from engine.runners.selection import open_runner
from engine.runners.torch_runner import TorchRunner
from engine.verification import fixed_slices
from networks.jcs import JCSClassifier, JCSJoint, JCSSegmenter
from networks.m3lung import M3PatientNet, M3SliceNet
from training.package import write_package
from training.serving import JCSClassifyGraph, JCSSegmentGraph, M3PatientGraph, M3SlicesGraph, ServingGraph

STUDY = 300
LUNG_BOX = (90, 30, 390, 480)
CENTRE_BOX = (32, 32, 480, 480)
RECIPES = Path(__file__).parents[1] / "trt_engines"

_COMMON: dict[str, Any] = {
    "version": "0",
    "description": "random weights for benchmarks",
    "authors": "",
    "copyright": "",
    "license": "Apache-2.0",
    "intended_use": "measuring speed; its output means nothing",
    "training_data": [],
    "metrics": {},
}


@dataclass(frozen=True)
class Work:
    """One graph on its share of a study. slices: how many one study has of it (the patient graph: three calls)."""

    system: str
    graph: str
    inputs: Callable[[int], dict[str, npt.NDArray[Any]]]
    calls: int


def graphs_of(size: str) -> dict[str, dict[str, ServingGraph]]:
    """Serving graphs by system and name, with random weights of the given size."""
    torch.manual_seed(0)
    if size == "full":
        classifier, segmenter, slices = JCSClassifier(), JCSJoint(), M3SliceNet()
        patient, pixels = M3PatientNet(norm="softmax"), (224, 512, 512)
    else:
        classifier = JCSClassifier(depths=(2, 3, 4, 2), planes=(24, 40, 80, 128), base_width=32)
        segmenter = JCSSegmenter(widths=(12, 24, 48, 96, 96), encoder_norm="train", decoder_norm="train")  # type: ignore[assignment]
        slices = M3SliceNet(planes=(16, 32, 64, 96), stem=16)
        patient = M3PatientNet(slices.feature_width, head_width=16, heads=2, scales=(1, 2), norm="softmax")
        pixels = (224, 256, 256)
    for network in (classifier, segmenter, slices, patient):
        _settle(network)
    return {
        "jcs": {
            "classify": JCSClassifyGraph(classifier, pixels[0]),
            "segment": JCSSegmentGraph(segmenter, pixels[1]),
        },
        "m3lung": {"slices": M3SlicesGraph(slices, pixels[2]), "patient": M3PatientGraph(patient)},
    }


def _settle(network: nn.Module) -> None:
    """Statistics of normalisations such that values stay of order one through many layers."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.8, 1.2)
    network.eval()


def packages(size: str, folder: Path) -> dict[str, ModelPackage]:
    """Both packages of a size, exported where they are not there yet."""
    metadata = {
        "jcs": {
            "classes": ["not_infected", "covid19"],
            "preprocessing": {"crop": "centre"},
            "thresholds": {},
        },
        "m3lung": {
            "classes": ["healthy", "covid19", "h1n1", "cap"],
            "preprocessing": {"crop": "lungs"},
            "thresholds": {},
        },
    }
    paths = {system: folder / f"{system}-{size}" for system in metadata}
    if not all(path.is_dir() for path in paths.values()):
        for system, graphs in graphs_of(size).items():
            described = {
                **_COMMON,
                **metadata[system],
                "name": paths[system].name,
                "system": system,
                "variant": size,
            }
            write_package(paths[system], graphs, described, "Random weights, for measuring speed.")
    return {system: read_package(path) for system, path in paths.items()}


def works(features: int) -> list[Work]:
    """The work of a study, graph by graph."""

    def cropped(box: tuple[int, int, int, int]) -> Callable[[int], dict[str, npt.NDArray[Any]]]:
        top, left, bottom, right = box
        hu = np.ascontiguousarray(fixed_slices(512)[:, top:bottom, left:right])
        return lambda count: {"hu": np.resize(hu, (count, *hu.shape[1:]))}

    rows = np.abs(np.random.default_rng(0).normal(0, 1, (STUDY, features))).astype(np.float32)
    return [
        Work("jcs", "classify", cropped(CENTRE_BOX), STUDY),
        Work("jcs", "segment", cropped((0, 0, 512, 512)), STUDY),
        Work("m3lung", "slices", cropped(LUNG_BOX), STUDY),
        Work("m3lung", "patient", lambda count: {"features": rows}, 3),
    ]


def runners(package: ModelPackage, options: RunnerOptions) -> Iterator[tuple[str, Runner]]:
    """Every backend that works here; what does not is said."""
    yield "torch f32", TorchRunner(package, RunnerOptions(precision="f32", threads=options.threads))
    yield "openvino f32", OpenVINORunner(package, RunnerOptions(precision="f32", threads=options.threads))
    yield "openvino bf16", OpenVINORunner(package, RunnerOptions(precision="bf16", threads=options.threads))
    if options.engines is not None:
        for precision in ("int8", "f16"):
            device = "openvino" if precision == "int8" else "tensorrt"
            wanted = RunnerOptions(precision, options.threads, options.batch, device, options.engines)  # type: ignore[arg-type]
            try:
                runner = open_runner(package, wanted).runner
                yield runner.description, runner
            except EngineError as error:
                print(f"- {device} {precision}: left out: {error}", flush=True)


def measure(
    candidates: Mapping[str, Runner], work: Work, slices: int, rounds: int, batch: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of wall clock and of processor per slice (patient: per call) of every candidate, round by round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    count = 1 if work.graph == "patient" else slices
    for round_ in range(rounds + 1):
        for name, runner in candidates.items():
            few = name.startswith("torch") and count > 1
            todo = min(count, batch) if few else count
            start, busy = time.perf_counter(), time.process_time()
            for first in range(0, todo, batch):
                runner.run(work.graph, work.inputs(min(batch, todo - first)))
            if round_:  # the first round compiles and warms up
                wall, processor = time.perf_counter() - start, time.process_time() - busy
                seconds[name].append((wall / todo, processor / todo))
    return seconds


def main() -> None:
    """Measure and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("full", "compact"), default="full")
    parser.add_argument("--slices", type=int, default=24, help="slices measured per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--engines", action="store_true", help="also built and verified engines: int8, TensorRT"
    )
    parser.add_argument("--work", type=Path, default=Path("var/benchmarks"))
    parser.add_argument("--report", type=Path, help="write the table here as well")
    a = parser.parse_args()
    engines = EngineOptions(a.work / "engines", RECIPES) if a.engines else None
    options = RunnerOptions(threads=a.threads, batch=a.batch, engines=engines)
    lines = [
        f"{a.size} size, {a.slices} slices x {a.rounds} rounds, batch {a.batch}, medians; a study is {STUDY} slices.",
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start.",
        "",
        "| work | backend | ms per slice | spread | processor ms | study s | against torch f32, processor |",
        "|---|---|---|---|---|---|---|",
    ]
    found = packages(a.size, a.work)
    features = 3072 if a.size == "full" else graphs_of("compact")["m3lung"]["patient"].example().shape[1]
    for work in works(features):
        candidates = dict(runners(found[work.system], options))
        seconds = measure(candidates, work, a.slices, a.rounds, a.batch)
        base = statistics.median(p for _, p in seconds["torch f32"])
        for name, rounds in seconds.items():
            walls = [wall for wall, _ in rounds]
            middle, processor = statistics.median(walls), statistics.median(p for _, p in rounds)
            lines.append(
                f"| {work.system} {work.graph} | {name} | {1e3 * middle:.1f} | {1e3 * min(walls):.1f} to "
                f"{1e3 * max(walls):.1f} | {1e3 * processor:.1f} | {middle * work.calls:.2f} "
                f"| x {base / processor:.1f} |"
            )
            print(lines[-1], flush=True)
        for runner in candidates.values():
            runner.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines += ["", f"Peak memory of this process, torch included: {peak:.1f} GiB."]
    print("\n".join(lines))
    if a.report:
        a.report.write_text("\n".join(lines) + "\n")


def _processor() -> str:
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return models[0].partition(":")[2].strip() if models else platform.processor()


if __name__ == "__main__":
    main()
