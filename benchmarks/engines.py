"""Speed of the engines: the papers' networks at full size with random weights, and studies with `lungnode screen`.

    make bench                       on 16 slices of each network, about thirteen minutes on two quiet cores
    make bench SLICES=300            on all slices of a study, hours in eager PyTorch

The work of the networks is linear in the slices (the patient network apart, which gets 300 in any case), so fewer are
scaled to a study of 300, and the table says so. Studies are run whole with the compact packages; with full-size
networks on 75 slices, the fewest that are screened. All backends are measured in one run, round by round in turn, so
that a busy moment meets all of them: medians, and ratios to the same networks in eager PyTorch (float32 on the CPU, in
fewer rounds, as it takes most of the time; half and channels-last on a GPU). The roofline says how much of what the
processor multiplies at most is reached. The tables are written into docs/performance.md between two marks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pydicom
import torch
import yaml
from random_packages import graphs_of, packages
from roofline import attainable, multiply_adds

from engine.backends import WantedEngine
from engine.errors import EngineError
from engine.packages import ModelPackage
from engine.runners.interface import EngineOptions, RunnerOptions
from engine.runners.openvino_quantised import CALIBRATED
from engine.runners.openvino_runner import OpenVINOBackend, OpenVINORunner
from engine.runners.selection import open_runner
from engine.verification import fixed_slices
from node.phantom import phantom_study, phantom_volume

STUDY = 300
FEWEST_OF_A_STUDY = 75
"""Slices of the phantom at least: with fewer its slices are too thick to be screened."""

LUNG_BOX = (90, 30, 390, 480)
CENTRE_BOX = (32, 32, 480, 480)
ROOT = Path(__file__).parents[1]
FIRST, LAST = "<!-- engines: begin -->", "<!-- engines: end -->"

Inputs = dict[str, npt.NDArray[Any]]
Call = Callable[[str, list[Inputs]], None]
"""Runs a graph on each of the inputs and waits for the last of them."""


@dataclass(frozen=True)
class Part:
    """One graph on its share of a study: `inputs(n)` for n slices (the patient network: for n windows)."""

    graph: str
    inputs: Callable[[int], list[Inputs]]
    whole: int
    least: int = 1


@dataclass(frozen=True)
class Work:
    """One row of the table and what it aims at, seconds for a study."""

    name: str
    system: str
    parts: tuple[Part, ...]
    aim_cpu: float
    aim_gpu: float
    aim_int8: float | None = None


@dataclass(frozen=True)
class Timed:
    """Seconds for a whole study, wall clock and processor, round by round."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the wall clock."""
        return statistics.median(self.wall)


Measured = list[tuple[Work, dict[str, Timed]]]
"""Every work with what each backend took for it."""

_LOOK_SECONDS = 0.05
_WARM_UP = 2
"""Slices that a backend of the CPU is warmed up with; on a GPU all, as what is recorded there is for one shape."""

_EAGER_ROUNDS = 2
_CALIBRATION = 2
"""Slices that INT8 is calibrated with: weights are random, so only its speed is of interest."""

INT8 = "OpenVINO int8"
EAGER, EAGER_GPU = "PyTorch eager f32", "GPU: PyTorch eager f16"


def works(features: int, batch: int) -> list[Work]:
    """The work of a study."""

    def cropped(box: tuple[int, int, int, int]) -> Callable[[int], list[Inputs]]:
        top, left, bottom, right = box
        hu = np.ascontiguousarray(fixed_slices(512)[:, top:bottom, left:right])

        def inputs(count: int) -> list[Inputs]:
            firsts = range(0, count, batch)
            return [{"hu": np.resize(hu, (min(batch, count - f), *hu.shape[1:]))} for f in firsts]

        return inputs

    rows = np.abs(np.random.default_rng(0).normal(0, 1, (STUDY, features))).astype(np.float32)
    patient = Part("patient", lambda count: [{"features": rows}] * count, 3, least=3)
    return [
        Work("JCS classification", "jcs", (Part("classify", cropped(CENTRE_BOX), STUDY),), 4, 0.05),
        Work(
            "JCS joint segmentation",
            "jcs",
            (Part("segment", cropped((0, 0, 512, 512)), STUDY),),
            60,
            0.7,
            30,
        ),
        Work(
            "M3Lung-Sys, three windows + patient network",
            "m3lung",
            (Part("slices", cropped(LUNG_BOX), STUDY), patient),
            20,
            0.25,
        ),
    ]


def eager(size: str, system: str, device: str) -> Call:
    """The networks of a system as torch modules, one call after the other."""
    graphs = graphs_of(size)[system]
    half = device == "cuda"
    if half:
        graphs = {name: graph.to(device, memory_format=torch.channels_last) for name, graph in graphs.items()}  # type: ignore[call-overload]

    def call(graph: str, inputs: list[Inputs]) -> None:
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=half):
            for given in inputs:
                out = graphs[graph](*(torch.from_numpy(x).to(device) for x in given.values()))
                for tensor in out if isinstance(out, tuple) else (out,):
                    tensor.cpu()

    return call


def candidates(
    package: ModelPackage, size: str, options: RunnerOptions, folder: Path
) -> Iterator[tuple[str, Call]]:
    """Every backend that works here, the reference first; what does not is said."""
    yield EAGER, eager(size, package.metadata.system, "cpu")
    for precision in ("f32", "bf16"):
        runner = OpenVINORunner(package, replace(options, precision=precision, engines=None))
        yield f"OpenVINO {precision}", _ran_through(runner)
    if any(graph in CALIBRATED for graph in package.metadata.graphs):
        try:
            yield INT8, _ran_through(in_int8(package, options, folder))
        except EngineError as error:
            _left_out(INT8, error)
    if not torch.cuda.is_available():
        return
    yield EAGER_GPU, eager(size, package.metadata.system, "cuda")
    name = "GPU: TensorRT f16"
    try:
        yield (
            name,
            _ran_through(open_runner(package, replace(options, precision="f16", device="tensorrt")).runner),
        )
    except EngineError as error:
        _left_out(name, error)


def _left_out(name: str, error: EngineError) -> None:
    print(f"- {name}: left out: {error}", file=sys.stderr, flush=True)


def in_int8(package: ModelPackage, options: RunnerOptions, folder: Path) -> OpenVINORunner:
    """Every graph of a package that is quantised, unverified, as its weights are random."""
    backend, engines = OpenVINOBackend(), {}
    for graph in CALIBRATED:
        engines[graph] = folder / f"{package.metadata.name}-{graph}-int8"
        wanted = WantedEngine(package, graph, "int8", calibration=_CALIBRATION)
        engines[graph].write_bytes(backend.build(wanted))
    return OpenVINORunner(package, replace(options, engines=None), engines)


def _ran_through(runner: Any) -> Call:
    def call(graph: str, inputs: list[Inputs]) -> None:
        for _ in runner.run_each(graph, inputs):
            pass

    return call


def measured(found: dict[str, Call], work: Work, slices: int, rounds: int) -> dict[str, Timed]:
    """Every candidate on a work, round by round in turn; a first round compiles and warms up."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for round_ in range(rounds + 1):
        for name, call in found.items():
            if name == EAGER and round_ > _EAGER_ROUNDS:
                continue
            pair = _timed(call, work, slices if round_ or name.startswith("GPU") else _WARM_UP)
            if round_:
                seconds[name].append(pair)
            print(f"  {work.name}: {name}: round {round_}: {pair[0]:.1f} s", file=sys.stderr, flush=True)
    return {name: Timed(*zip(*pairs, strict=True)) for name, pairs in seconds.items()}


def _timed(call: Call, work: Work, slices: int) -> tuple[float, float]:
    """Seconds of wall clock and processor of a work, measured on so many slices and scaled to a study."""
    wall = processor = 0.0
    for part in work.parts:
        count = max(part.least, min(part.whole, slices))
        inputs = part.inputs(count)
        start, busy = time.perf_counter(), time.process_time()
        call(part.graph, inputs)
        wall += (time.perf_counter() - start) * part.whole / count
        processor += (time.process_time() - busy) * part.whole / count
    return wall, processor


def measured_networks(arguments: argparse.Namespace, work_folder: Path) -> Measured:
    """Every work on every backend that works here."""
    found = packages(arguments.size, work_folder)
    width = graphs_of(arguments.size)["m3lung"]["patient"].example().shape[1]
    engines = EngineOptions(work_folder / "engines", ROOT / "trt_engines")
    options = RunnerOptions(threads=arguments.threads, batch=arguments.batch, engines=engines)
    results = []
    for work in works(width, arguments.batch):
        calls = dict(candidates(found[work.system], arguments.size, options, work_folder))
        results.append((work, measured(calls, work, arguments.slices, arguments.rounds)))
    return results


def roofline_rows(arguments: argparse.Namespace, work_folder: Path, results: Measured) -> list[str]:
    """What every work multiplies, what that takes at least on this processor, and what it took."""
    precision, peak = attainable(arguments.threads or len(os.sched_getaffinity(0)))
    found = packages(arguments.size, work_folder)
    rows = []
    for work, timed in results:
        needed = 0.0
        for part in work.parts:
            given = part.inputs(part.least)
            shapes = [next(iter(inputs.values())).shape for inputs in given]
            adds = sum(multiply_adds(found[work.system], part.graph, shape) for shape in shapes)
            needed += adds * part.whole / part.least
        took = timed[f"OpenVINO {precision}"].median
        rows.append(
            f"| {work.name} | {needed / 1000:.2f} | {peak:.0f} in {precision} | {needed / peak:.1f} | {took:.1f} "
            f"| {needed / peak / took:.0%} |"
        )
    return rows


def aim_rows(results: Measured) -> list[str]:
    """The table of aims: the best backend of this processor and of its GPU; what is not here is said."""
    amx = "amx_bf16" in _flags()
    rows = []
    for work, timed in results:
        aim, reached = f"<= {work.aim_cpu:g}", _cell(_best(timed, gpu=False), EAGER, timed)
        if INT8 in timed:
            reached += f"; {_cell(INT8, EAGER, timed)}"
        if work.aim_int8 is not None:
            aim += f" bf16, <= {work.aim_int8:g} int8"
        cells = [f"| {work.name}", aim, reached]
        if not amx:
            cells[-1] += "; with AMX: not measured: no AMX"
        gpu = _best(timed, gpu=True)
        on_gpu = _cell(gpu, EAGER_GPU, timed) if gpu else "not measured: no GPU"
        rows.append(" | ".join([*cells, f"<= {work.aim_gpu:g}", on_gpu]) + " |")
    return rows


def _best(timed: dict[str, Timed], *, gpu: bool) -> str | None:
    """The fastest that keeps its verification by default: INT8 is an option, and has a figure of its own."""
    apart = (EAGER, EAGER_GPU, INT8)
    names = [name for name in timed if name.startswith("GPU") == gpu and name not in apart]
    return min(names, key=lambda name: timed[name].median, default=None)


def _cell(name: str | None, base: str, timed: dict[str, Timed]) -> str:
    assert name is not None, "OpenVINO runs on every processor"
    ratio = timed[base].median / timed[name].median
    return f"{timed[name].median:.2f} by {name.removeprefix('GPU: ')}, x {ratio:.1f}"


def network_rows(results: Measured) -> list[str]:
    """Rows of the table of networks, every backend."""
    return [
        _row(work, name, timed, results_of_work[EAGER_GPU if name.startswith("GPU") else EAGER])
        for work, results_of_work in results
        for name, timed in results_of_work.items()
    ]


def _row(work: Work, name: str, timed: Timed, base: Timed) -> str:
    processor = statistics.median(timed.processor)
    cheaper = statistics.median(base.processor) / processor
    return (
        f"| {work.name} | {name} | {timed.median:.2f} | {min(timed.wall):.2f} to {max(timed.wall):.2f} "
        f"| {processor:.1f} | x {base.median / timed.median:.1f} (processor x {cheaper:.1f}) |"
    )


@dataclass(frozen=True)
class Ran:
    """A command's seconds of wall clock and of processor time, and the most memory of one of its processes, GiB."""

    whole: float
    processor: float
    peak: float


@dataclass(frozen=True)
class Study:
    """One run of `lungnode screen`, with the seconds of each stage."""

    stages: dict[str, float]
    ran: Ran


def lungnode(*arguments: str) -> Ran:
    """Run a command of `lungnode` in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("lungnode")), *arguments], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    peak = 0.0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = max(peak, _peak_gib(process.pid))
        time.sleep(_LOOK_SECONDS)
    whole = time.perf_counter() - start
    _, status, used = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lungnode {arguments[0]} ended with {process.returncode}")
    return Ran(whole, used.ru_utime + used.ru_stime, peak)


def _peak_gib(pid: int) -> float:
    """The most memory that a process, or one that it started, has had; rusage would count that of who made it."""
    peaks = [0.0]
    with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        for one in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
            status = Path(f"/proc/{one}/status").read_text().splitlines()
            peaks += [int(line.split()[1]) / 2**20 for line in status if line.startswith("VmHWM")]
    return max(peaks)


def configured(folder: Path, models: list[Path], threads: int) -> str:
    """A configuration with an engine cache of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    screening = {"threads": threads, "engine_cache": str(folder / "engines")}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"models": [str(path) for path in models], "screening": screening}))
    return str(file)


def screened(folder: Path, configuration: str, out: Path) -> Study:
    """Screen a folder with the engines that there are."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "findings.json").unlink(missing_ok=True)
    ran = lungnode("screen", str(folder), "--out", str(out), "--config", configuration)
    return Study(json.loads((out / "findings.json").read_text())["timings_s"], ran)


def study_rows(arguments: argparse.Namespace, work_folder: Path) -> list[str]:
    """Rows of the table of studies: the phantom with the compact packages, and at full size with random weights."""
    compact = sorted((ROOT / "models").glob("*-compact"))
    full = [package.path for package in packages("full", work_folder).values()]
    fewer = min(STUDY, max(FEWEST_OF_A_STUDY, arguments.slices))
    rows = []
    for name, models, slices, rounds, aim in (
        ("compact packages", compact, STUDY, arguments.rounds, "stages <= 8 s"),
        ("full size, random weights, segmented", full, fewer, 1, "peak < 4 GiB"),
    ):
        folder = _phantom(work_folder / f"phantom-{slices}", slices)
        here = work_folder / f"screened-{slices}"
        configuration = configured(here, models, arguments.threads)
        built = lungnode("engines", "build", "--config", configuration)
        runs = [screened(folder, configuration, here) for _ in range(rounds)]
        run = sorted(runs, key=lambda r: sum(r.stages.values()))[len(runs) // 2]
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in run.stages.items())
        ran, peak = run.ran, max(r.ran.peak for r in runs)
        rows.append(
            f"| {name} | {built.whole:.0f} ({built.peak:.2f} GiB) | {slices} | {sum(run.stages.values()):.1f} "
            f"| {ran.whole:.1f} | {ran.processor:.1f} | {peak:.2f} | {aim} | {stages} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def _phantom(folder: Path, slices: int) -> Path:
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for index, dataset in enumerate(phantom_study(phantom_volume(slices), datetime(2026, 1, 1))):
            pydicom.dcmwrite(partial / f"{index:04d}.dcm", dataset, enforce_file_format=True)
        partial.replace(folder)
    return folder


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()


def _flags() -> list[str]:
    """What the processor multiplies in hardware."""
    return [
        flag for flag in ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni") if flag in _cpuinfo().split()
    ]


def machine() -> str:
    """Processor, what it multiplies in hardware, cores, GPU and load, in one line."""
    models = [line for line in _cpuinfo().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.processor()
    flags = _flags()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{name} ({', '.join(flags) or 'no bfloat16'}), {cores} cores, {gpu}; load {load:.1f} at the start"


def report(arguments: argparse.Namespace) -> str:
    """All tables in Markdown."""
    scaled = (
        ""
        if arguments.slices >= STUDY
        else f", measured on {arguments.slices} and scaled, as the work is linear"
    )
    head = (
        f"{date.today():%-d %B %Y}, {machine()}. {STUDY} slices of 512 x 512{scaled}; medians of {arguments.rounds} "
        f"rounds (eager PyTorch: {min(_EAGER_ROUNDS, arguments.rounds)}), batches of {arguments.batch} or what the "
        f"runner makes of them; {arguments.size} size, random weights. Seconds; x is against eager PyTorch (float32, "
        "aim >= 8; on a GPU half and channels-last, aim >= 2) in the same run."
    )
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    studies = study_rows(arguments, arguments.work) if arguments.studies else []
    results = measured_networks(arguments, arguments.work)
    tables = [
        ("| networks | aim, two cores with AMX | here | aim, H200-class GPU | here |", aim_rows(results)),
        ("| networks | backend | s | spread | processor s | against eager |", network_rows(results)),
        (
            "| networks | multiply-adds, 10^12 | a plain convolution, 10^9 a second | at least s | took s | reached |",
            roofline_rows(arguments, arguments.work, results),
        ),
    ]
    if studies:
        columns = (
            "| study (phantom) | engines built, s (peak) | slices | stages s | process s | processor s "
            "| peak GiB | aim | stages |"
        )
        tables.append((columns, studies))
    lines = [head]
    for columns, rows in tables:
        lines += ["", columns, "|---" * (columns.count("|") - 1) + "|", *rows]
    return "\n".join(lines)


def put(table: str, document: Path) -> None:
    """Write the table between the marks of a document. Raises SystemExit where it has none."""
    text = document.read_text(encoding="utf-8")
    if FIRST not in text or LAST not in text:
        raise SystemExit(f"{document} has no marks {FIRST} and {LAST}")
    before, rest = text.split(FIRST, 1)
    document.write_text(f"{before}{FIRST}\n{table}\n{LAST}{rest.split(LAST, 1)[1]}", encoding="utf-8")


def main() -> None:
    """Measure, print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("full", "compact"), default="full")
    parser.add_argument("--slices", type=int, default=16, help="slices measured; fewer are scaled to 300")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=RunnerOptions().batch)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--studies", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--work", type=Path, default=ROOT / "var/benchmarks")
    parser.add_argument("--document", type=Path, help="write the tables here, between the marks")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    table = report(arguments)
    print(table)
    if arguments.document:
        put(table, arguments.document)


if __name__ == "__main__":
    main()
