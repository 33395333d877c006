"""What the commands of `lungnode` have in common: options, the configuration, errors for people."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from node.configuration import Configuration

CONFIG = Path("config.yaml")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="LUNGNODE_CONFIG",
        help="Configuration file; config.yaml of this folder where there is one, else the defaults.",
    ),
]
UIDArgument = Annotated[str, typer.Argument(help="Its Study Instance UID, see `lungnode studies list`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class CommandError(Exception):
    """A command cannot do what it was asked; the message is for people, one line a problem."""


def chosen_file(path: Path | None) -> Path | None:
    """The configuration file that a command reads; None for the defaults."""
    return path or (CONFIG if CONFIG.is_file() else None)


def read_configuration(path: Path | None) -> Configuration:
    """The configuration of a command. Raises node.configuration.ConfigurationError."""
    from node.configuration import load_configuration

    return load_configuration(chosen_file(path))


def since(text: str, now: datetime) -> datetime:
    """A moment given as a span before now (90m, 12h, 1d, 2w) or as a date or time. Raises CommandError."""
    span = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    try:
        if span:
            return now - timedelta(**{_UNITS[span.group(2)]: int(span.group(1))})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise CommandError(f"{text!r} is no time; write 90m, 12h, 1d, 2w or 2026-01-31") from None


def say(words: str, data: Any, as_json: bool) -> None:
    """Print an answer for people, or the same as JSON."""
    print(json.dumps(data, indent=1, default=str) if as_json else words)
