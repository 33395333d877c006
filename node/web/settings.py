"""The configuration as it is in force, without secrets."""

from __future__ import annotations

import yaml
from starlette.responses import Response

from node.configured import shown_configuration
from node.web.site import Visit


def show(visit: Visit) -> Response:
    """Every section as YAML."""
    shown = shown_configuration(visit.site.configuration)
    sections = [
        (name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).removesuffix("...\n").strip())
        for name, content in shown.items()
    ]
    return visit.page("settings.html", sections=sections)
