"""The configuration as it is in force, without secrets."""

from __future__ import annotations

import yaml
from starlette.responses import Response

from node.configured import shown_configuration
from node.web.site import Visit


def show(visit: Visit) -> Response:
    """Every section as YAML; those that nothing is said in, by name."""
    shown = shown_configuration(visit.site.configuration)
    sections = [
        (name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).strip())
        for name, content in shown.items()
        if content
    ]
    return visit.page(
        "settings.html", sections=sections, empty=[n for n, content in shown.items() if not content]
    )
