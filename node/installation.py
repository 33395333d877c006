"""What comes with the program beside its modules: model packages, recipes, units, a first configuration."""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]


def shipped(name: str) -> Path:
    """Where a file or folder that is shipped lies: beside the source, else in the share folder of the installation.

    It need not be there: whoever reads it says what is wrong.
    """
    beside = SOURCE / name
    return beside if beside.exists() else Path(sys.prefix) / "share" / "lungnode" / name
