"""The model packages: what they are, what they were trained on, and their cards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import Response

from engine.errors import PackageInvalid
from engine.own_model.contract import OwnModelMetadata
from engine.packages import METADATA, MODEL_CARD, ModelPackage, read_package
from node.web.site import Visit
from reporting.equipment import SYSTEM_NAMES
from store import engines


@dataclass(frozen=True)
class ShownPackage:
    """A package of the configuration. card: HTML. why_not: what is wrong with it, empty where nothing is.

    meant_for, license: as its metadata say, empty where they do not.
    """

    name: str
    package: ModelPackage | None
    card: Markup
    why_not: str
    meant_for: str = ""
    license: str = ""

    @property
    def system(self) -> str:
        """What kind of package it is."""
        return "" if self.package is None else SYSTEM_NAMES[self.package.metadata.system]

    @property
    def classes(self) -> tuple[str, ...]:
        """Its classes; those of an own model with their codes."""
        if self.package is None:
            return ()
        metadata = self.package.metadata
        if isinstance(metadata, OwnModelMetadata):
            return tuple(
                f"{e.key} ({e.code.meaning}, {e.code.scheme} {e.code.value})" for e in metadata.classes
            )
        return metadata.classes


def show(visit: Visit) -> Response:
    """All packages that the configuration names."""
    packages = [_shown(path, _changed(path)) for path in visit.site.configuration.models]
    with visit.site.database.read() as session:
        known = engines.known(session)
    return visit.page("packages.html", packages=packages, engines=known)


@lru_cache(maxsize=16)
def _shown(path: Path, _changed_at: float) -> ShownPackage:
    """Reading a package hashes all of its files, so it is done once for as long as its metadata stay as they are."""
    try:
        package = read_package(path)
    except PackageInvalid as error:
        return ShownPackage(path.name, None, Markup(), str(error))
    card = path / MODEL_CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    said = json.loads(
        (path / METADATA).read_text(encoding="utf-8")
    )  # for people: serving does not read these
    return ShownPackage(
        path.name,
        package,
        card_html(text),
        "",
        str(said.get("intended_use", "")),
        str(said.get("license", "")),
    )


def card_html(text: str) -> Markup:
    """A model card as HTML; HTML within it is shown as text, never run."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    return Markup(reader.render(text))


def _changed(path: Path) -> float:
    metadata = path / METADATA
    return metadata.stat().st_mtime if metadata.is_file() else 0.0
