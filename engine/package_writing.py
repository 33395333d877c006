"""Writing a model package: all of it or nothing, with the hashes over its files."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.packages import METADATA, MODEL_CARD, SCHEMA, file_hashes, package_hash


def write_package(
    directory: Path,
    metadata: Mapping[str, Any],
    model_card: str,
    fill: Callable[[Path], Mapping[str, str]],
    check: Callable[[Path], None] = lambda folder: None,
) -> str:
    """Write a package; an existing one there is replaced. Returns the package hash.

    metadata: all but `schema`, `graphs` and `files`, which are added.
    fill: puts the graphs and weights into a folder and names the file of each graph.
    check: looks at the finished package before it takes its place; what it raises leaves everything as it was.
    Raises OSError where the directory cannot be written.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        staging.chmod(0o755)
        graphs = fill(staging)
        contents = {
            "schema": SCHEMA,
            **metadata,
            "graphs": {name: {"file": file} for name, file in graphs.items()},
            "files": file_hashes(staging),
        }
        text = json.dumps(contents, indent=2, ensure_ascii=False) + "\n"
        (staging / METADATA).write_text(text, encoding="utf-8")
        (staging / MODEL_CARD).write_text(model_card.rstrip() + "\n", encoding="utf-8")
        check(staging)
        digest = package_hash(file_hashes(staging))
        _replace(staging, directory)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return digest


def _replace(staging: Path, directory: Path) -> None:
    if not directory.exists():
        staging.rename(directory)
        return
    old = staging.with_name(staging.name + "-old")
    directory.rename(old)
    staging.rename(directory)
    shutil.rmtree(old)
