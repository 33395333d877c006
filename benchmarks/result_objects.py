"""How long the result objects of a study take: `python benchmarks/result_objects.py [--slices 300] [--repeat 5]`.

A phantom study of 300 slices of 512 x 512, 130 of them with lesions. Each object on its own line: median seconds of
processor time to build and to encode it, and its size. `preparation` is what all objects share, `verification` the
reading back of the Segmentation, both of which a result set pays once; they are part of the first line as well.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from engine.findings import Findings
from engine.volume import Volume
from reporting import OBJECT_KINDS, ObjectKind, ReportContext, build
from reporting.phantom_case import PhantomCase, make_case
from reporting.profiles import PROFILES
from reporting.segments import lesion_segments, segment_map
from reporting.source_images import source_images
from reporting.uids import ResultUids
from reporting.verification import verify_segmentation
from reporting.warming import warm_up

CONTEXT = ReportContext(datetime(2026, 1, 2, 12), settings_hash="benchmark", software_version="0")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--lesion-slices", type=int, default=130)
    parser.add_argument("--lesions", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    case = PhantomCase(given.slices, 512, given.lesion_slices, given.lesions, step=1.0)
    findings, volume = make_case(case)
    warm_up()
    before = peak_mib()
    print(
        f"{case.slices} slices of 512 x 512, {case.lesion_slices} with {case.lesions} lesions, warm, one process"
    )
    print(f"{'object':<14}{'cpu s':>8}{'wall s':>8}{'KiB':>9}")
    for name, kinds in (("whole set", PROFILES["modern"]), ("legacy set", PROFILES["legacy"])):
        report(name, partial(made, findings, volume, kinds), given.repeat)
    print(f"peak memory above the study itself: {peak_mib() - before:.0f} MiB")
    report("preparation", lambda: shared(findings, volume), given.repeat)
    report("verification", verification(findings, volume), given.repeat)
    for kind in OBJECT_KINDS:
        report(kind, partial(made, findings, volume, (kind,)), given.repeat)


def made(findings: Findings, volume: Volume, kinds: tuple[ObjectKind, ...]) -> int:
    """Build and encode; returns the bytes of all files."""
    return sum(len(result.encoded) for result in build(findings, volume, CONTEXT, kinds))


def shared(findings: Findings, volume: Volume) -> int:
    """What every result set needs once."""
    source_images(volume)
    segment_map(findings, lesion_segments(findings, ResultUids("benchmark")))
    return 0


def verification(findings: Findings, volume: Volume) -> Callable[[], int]:
    """Reading one Segmentation back."""
    (seg,) = build(findings, volume, CONTEXT, ("seg",))
    label_map = segment_map(findings, lesion_segments(findings, ResultUids("benchmark")))

    def check() -> int:
        verify_segmentation(seg.encoded, label_map, volume)
        return 0

    return check


def report(name: str, work: Callable[[], int], repeat: int) -> None:
    """One line: the median of `repeat` runs."""
    cpu, wall, size = [], [], 0
    for _ in range(repeat):
        started = time.process_time(), time.perf_counter()
        size = work()
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    size_text = f"{size / 1024:>9.0f}" if size else ""
    print(f"{name:<14}{statistics.median(cpu):>8.2f}{statistics.median(wall):>8.2f}{size_text}", flush=True)


def peak_mib() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
