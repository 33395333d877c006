"""`python -m training.compact`: build the pool, train the compact models, write their packages."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from training.compact.pool import build_pool


def _default_data() -> Path:
    return Path(os.environ.get("LUNGNODE_DATA", "../shared/data"))


def main() -> None:
    """Run one step of the training; see docs/models/compact.md for the order."""
    parser = argparse.ArgumentParser(prog="python -m training.compact", description=__doc__)
    parser.add_argument("--data", type=Path, default=_default_data(), help="real CT data (LUNGNODE_DATA)")
    parser.add_argument("--work", type=Path, default=Path("var/compact"), help="pool and checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    steps = parser.add_subparsers(dest="step", required=True)
    pool = steps.add_parser("pool", help="read the real data and simulate cases")
    pool.add_argument("--cases", type=int, default=220)
    arguments = parser.parse_args()
    if arguments.step == "pool":
        build_pool(arguments.data, arguments.work / "pool", arguments.cases, arguments.seed)


if __name__ == "__main__":
    main()
