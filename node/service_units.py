"""The units of systemd, fitted to where this program, its configuration and its data are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from node.installation import shipped

PROGRAM = "/opt/lungnode/bin/lungnode"
CONFIGURATION = "/etc/lungnode/config.yaml"
STATE = "/var/lib/lungnode"

OF_A_USER = frozenset(
    {
        "Type",
        "NotifyAccess",
        "Environment",
        "ExecStart",
        "ExecReload",
        "Restart",
        "RestartSec",
        "RestartPreventExitStatus",
        "WatchdogSec",
        "TimeoutStartSec",
        "TimeoutStopSec",
        "MemoryMax",
        "TasksMax",
        "OOMPolicy",
        "UMask",
        "NoNewPrivileges",
    }
)
"""Directives of [Service] that a user's own manager can keep; the others take rights that it has not."""

OUT_OF_SIGHT = tuple(Path(folder) for folder in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))
"""What ProtectHome and PrivateTmp of the system's units hide from the services (systemd.exec(5))."""


@dataclass(frozen=True)
class Place:
    """Where the things are that the units name. writable: folders outside of /var/lib/lungnode that are written."""

    program: Path
    configuration: Path
    writable: tuple[Path, ...] = ()


def shipped_units() -> Path:
    """The folder with the units. Raises FileNotFoundError."""
    folder = shipped("systemd")
    if not (folder / "lungnode.target").is_file():
        raise FileNotFoundError("the units of systemd are not in this installation; install lungnode again")
    return folder


def unseen(paths: Iterable[Path]) -> Path | None:
    """The first of these absolute paths that services of the system could not see; None where they see all."""
    return next((path for path in paths if any(path.is_relative_to(f) for f in OUT_OF_SIGHT)), None)


def fitted(text: str, place: Place) -> str:
    """A unit of the system with the paths of `place`."""
    text = text.replace(PROGRAM, str(place.program)).replace(CONFIGURATION, str(place.configuration))
    if place.writable and "ProtectSystem=strict" in text:
        paths = " ".join(str(path) for path in place.writable)
        text = text.replace("ProtectSystem=strict\n", f"ProtectSystem=strict\nReadWritePaths={paths}\n")
    return text


def fitted_for_user(text: str, place: Place) -> str:
    """A unit for a user's own manager: without what only the system's manager may do."""
    lines, section = [], ""
    for line in fitted(text, place).splitlines():
        if line.startswith("["):
            section = line
        key = line.partition("=")[0]
        if section == "[Service]" and line and not line.startswith(("#", "[")) and key not in OF_A_USER:
            continue
        if section == "[Unit]" and "network-online.target" in line:
            continue
        lines.append(line)
    return _tidy(lines).replace("WantedBy=multi-user.target", "WantedBy=default.target")


def units_to_write(source: Path, place: Place, *, for_user: bool) -> dict[str, str]:
    """Path below the folder of units, and content, of every unit."""
    fit = fitted_for_user if for_user else fitted
    units = {
        path.name: fit(path.read_text(), place)
        for path in sorted(source.glob("lungnode*.*"))
        if _is_unit(path)
    }
    if not for_user:
        for path in sorted(source.glob("*.service.d/*.conf")):
            units[f"{path.parent.name}/{path.name}"] = path.read_text()
    return units


def _is_unit(path: Path) -> bool:
    return path.suffix in (".service", ".target")


def _tidy(lines: Iterable[str]) -> str:
    """Without comments and runs of empty lines, which belonged to what was left out."""
    kept: list[str] = []
    for line in lines:
        if line.startswith("#") or (not line and kept and not kept[-1]):
            continue
        kept.append(line)
    return "\n".join(kept).strip() + "\n"
