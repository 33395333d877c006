"""OpenVINO, imported so that it reports to nobody.

At its import it would make a folder in the home of the user and send an event to its makers, through Google Analytics.
It does without where its package for that cannot be imported. Import OpenVINO from here only.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast

# None makes the import fail (importlib, sys.modules); typeshed does not know that it may stand there
sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))

import openvino as ov  # noqa: E402
from openvino import opset13  # noqa: E402

__all__ = ["opset13", "ov"]
