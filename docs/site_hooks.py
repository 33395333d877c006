"""Pages of the site that are made from the program when the site is built."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from node.configuration_reference import reference

SHIPPED = Path(__file__).parents[1] / "config.yaml"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference of the configuration."""
    content = reference(SHIPPED.read_text(encoding="utf-8"))
    files.append(File.generated(config, "configuration.md", content=content))
    return files
