"""Writing model packages: graphs, weights, metadata, model card, and the hashes over them.

The format is the package contract in docs/architecture.md. Serving reads it without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import package_writing, packages
from training.export import store_graphs, to_onnx
from training.serving import ServingGraph

GRAPHS_OF_SYSTEM = {"jcs": {"classify", "segment"}, "m3lung": {"slices", "patient"}}
"""Graph names that a system knows; a package may hold fewer."""

REQUIRED_METADATA = (
    "name",
    "version",
    "system",
    "variant",
    "preprocessing",
    "classes",
    "thresholds",
    "description",
    "authors",
    "copyright",
    "license",
    "intended_use",
    "training_data",
    "metrics",
)


def write_package(
    directory: Path,
    graphs: Mapping[str, ServingGraph],
    metadata: Mapping[str, Any],
    model_card: str,
    half: bool = True,
) -> str:
    """Write a package, all of it or nothing.

    Args:
        directory: the package's directory; an existing package there is replaced.
        graphs: serving graphs by the names of the contract, e.g. {"classify": ..., "segment": ...}.
        metadata: the keys of `REQUIRED_METADATA`; `schema`, `graphs` and `files` are added here.
        model_card: text of MODEL_CARD.md.
        half: round matrices and kernels to what bfloat16 and float16 both hold, and store them as float16.

    Returns:
        The package hash.

    Raises:
        ValueError: metadata keys are missing, or a graph does not belong to the system.
        OSError: the directory cannot be written.
    """
    _check(graphs, metadata)
    models = {name: to_onnx(graph) for name, graph in graphs.items()}

    def fill(folder: Path) -> dict[str, str]:
        return {name: path.name for name, path in store_graphs(folder, models, half).items()}

    return package_writing.write_package(Path(directory), metadata, model_card, fill)


def package_hash(directory: Path) -> str:
    """The package hash of a directory, see `engine.packages.package_hash`."""
    return packages.package_hash(packages.file_hashes(Path(directory)))


def _check(graphs: Mapping[str, ServingGraph], metadata: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED_METADATA if key not in metadata]
    if missing:
        raise ValueError(f"package metadata lacks {', '.join(missing)}")
    known = GRAPHS_OF_SYSTEM.get(metadata["system"])
    if known is None:
        raise ValueError(f"system must be one of {sorted(GRAPHS_OF_SYSTEM)}, not {metadata['system']!r}")
    if not graphs or not set(graphs) <= known:
        raise ValueError(f"graphs of system {metadata['system']} are {sorted(known)}, not {sorted(graphs)}")
