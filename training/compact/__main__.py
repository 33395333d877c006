"""Build the data pool, train the compact models, evaluate them, write their packages.

One step per call; docs/models/compact.md lists the calls that made the packages in models/.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from training.compact import steps


def main() -> None:
    """Run one step."""
    arguments = _parser().parse_args()
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.compact", description=__doc__)
    data = Path(os.environ.get("LUNGNODE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of real CT data (LUNGNODE_DATA)")
    parser.add_argument("--work", type=Path, default=Path("var/compact"), help="pool and checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    commands = parser.add_subparsers(title="steps", required=True)

    pool = commands.add_parser("pool", help="read the real data and simulate cases")
    pool.add_argument("--cases", type=int, default=200, help="simulated cases")
    pool.set_defaults(run=steps.build)

    for name, run, peak in (
        ("jcs", steps.train_jcs_networks, 3e-3),
        ("m3-slices", steps.train_m3_slices, 4e-3),
    ):
        train = commands.add_parser(name, help="train these networks")
        train.add_argument("--steps", type=int, required=True)
        train.add_argument("--peak", type=float, default=peak, help="highest learning rate")
        train.add_argument("--without", default="", help="patients to hold out, separated by commas")
        train.add_argument("--start", type=Path, help="checkpoint to go on from")
        train.add_argument("--out", type=Path, help="checkpoint to write")
        if name == "jcs":
            train.add_argument("--segment-every", type=int, default=2, help="steps per turn of the segmenter")
        train.set_defaults(run=run)

    patient = commands.add_parser("m3-patient", help="train the patient network on a trained slice network")
    patient.add_argument("--steps", type=int, default=700)
    patient.add_argument("--without", default="", help="patients to hold out, separated by commas")
    patient.add_argument("--slices", type=Path, help="checkpoint of the slice network")
    patient.add_argument("--out", type=Path, help="checkpoint to write")
    patient.set_defaults(run=steps.train_m3_patient)

    masks = commands.add_parser("masks", help="let a trained segmenter draw masks where the pool has none")
    masks.add_argument("--jcs", type=Path, help="JCS checkpoint")
    masks.set_defaults(run=steps.draw_masks)

    evaluate = commands.add_parser("evaluate", help="print figures of checkpoints on the pool")
    evaluate.add_argument("--jcs", type=Path, help="JCS checkpoint")
    evaluate.add_argument("--slices", type=Path, help="checkpoint of the M3 slice network")
    evaluate.set_defaults(run=steps.evaluate)

    package = commands.add_parser("package", help="write the packages into a folder")
    package.add_argument("--models", type=Path, default=Path("models"))
    package.set_defaults(run=steps.package)
    return parser


if __name__ == "__main__":
    main()
