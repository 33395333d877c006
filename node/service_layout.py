"""Laying out the services of systemd on a machine: units, user, folders, a first configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from sqlalchemy.engine import make_url

from node.command_options import CommandError
from node.configuration import Configuration, load_configuration
from node.installation import shipped
from node.service_units import CONFIGURATION, STATE, Place, shipped_units, units_to_write


@dataclass(frozen=True)
class Layout:
    """Where everything goes. state: the data folder that a new configuration names. root: put before every path."""

    units: Path
    configuration: Path
    state: Path
    for_user: bool
    root: Path = Path("/")

    def real(self, path: Path) -> Path:
        """Where a path is while it is laid out."""
        return self.root / path.relative_to("/")


def system_layout(configuration: Path | None, root: Path) -> Layout:
    """For the whole machine."""
    chosen = configuration.resolve() if configuration else Path(CONFIGURATION)
    return Layout(Path("/etc/systemd/system"), chosen, Path(STATE), False, root)


def user_layout(configuration: Path | None) -> Layout:
    """For the manager of whoever calls."""
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    state_home = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
    chosen = configuration.resolve() if configuration else config_home / "lungnode" / "config.yaml"
    return Layout(config_home / "systemd" / "user", chosen, state_home / "lungnode", True)


def install(layout: Layout, program: Path) -> list[str]:
    """Write what `layout` says; what was done, a line each. Raises CommandError."""
    try:
        return _install(layout, program)
    except PermissionError as error:
        raise CommandError(
            f"{error.filename}: no right to write; run as root, or use --user for services of your own"
        ) from error


def _install(layout: Layout, program: Path) -> list[str]:
    said = []
    if not layout.for_user:
        said += _account(layout)
    file = layout.real(layout.configuration)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(new_configuration(layout.state))
        file.chmod(0o640)
        said.append(f"configuration {layout.configuration}: written, look through it")
    settings = load_configuration(file)
    place = Place(program, layout.configuration, folders_outside(settings, layout.state))
    for name, content in units_to_write(shipped_units(), place, for_user=layout.for_user).items():
        target = layout.real(layout.units) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        said.append(f"unit {layout.units / name}")
    if layout.root == Path("/") and not layout.for_user:
        run_program("systemd-sysusers", "lungnode.conf")
        run_program("systemd-tmpfiles", "--create", "lungnode.conf")
        shutil.chown(file, group="lungnode")
    if layout.for_user:
        layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        said += _folders(layout, place.writable)
    return said


def _folders(layout: Layout, writable: Iterable[Path]) -> list[str]:
    """Make those of these folders that are not there: systemd starts no unit that may write what is missing."""
    said = []
    for folder in writable:
        real = layout.real(folder)
        if real.exists():
            continue
        real.mkdir(mode=0o750, parents=True)
        if layout.root == Path("/"):
            shutil.chown(real, "lungnode", "lungnode")
        said.append(f"folder {folder}: made")
    return said


def _account(layout: Layout) -> list[str]:
    """The user of the services and his folders, as systemd-sysusers and systemd-tmpfiles make them."""
    said = []
    for source, target in (("lungnode.sysusers", "sysusers.d"), ("lungnode.tmpfiles", "tmpfiles.d")):
        path = Path("/usr/lib") / target / "lungnode.conf"
        layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        layout.real(path).write_text((shipped_units() / source).read_text())
        said.append(str(path))
    return said


def new_configuration(state: Path) -> str:
    """The shipped configuration with its comments; data lie in `state`, packages where this program has them."""
    replaced = {
        "  path: var  ": f"  path: {state}  ",
        "url: sqlite:///var/lungnode.db": f"url: sqlite:///{state}/lungnode.db",
        "file: var/audit.log": f"file: {state}/audit.log",
        "engine_cache: trt_engines/cache": f"engine_cache: {state}/engines",
        "  - models/": f"  - {shipped('models')}/",
    }
    text = shipped("config.yaml").read_text()
    for before, after in replaced.items():
        if before not in text:
            raise CommandError(f"the shipped configuration has no {before.strip()!r}; install lungnode again")
        text = text.replace(before, after)
    yaml.safe_load(text)
    return text


def folders_outside(settings: Configuration, state: Path) -> tuple[Path, ...]:
    """Folders that are written and are not below the state folder."""
    written = {settings.storage.path}
    url = make_url(settings.database.url)
    if url.get_backend_name() == "sqlite" and url.database:
        written.add(Path(url.database).parent)
    if settings.audit.file is not None:
        written.add(settings.audit.file.parent)
    if settings.screening.uses_built_engines:
        written.add(settings.screening.engine_cache)
    return tuple(sorted(path for path in written if not path.is_relative_to(state)))


def run_program(*command: str) -> None:
    """Run a program of systemd. Raises CommandError with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        raise CommandError(f"{command[0]} is not there: this machine has no systemd") from None
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"{' '.join(command)}: has not ended after two minutes; see journalctl -xe"
        ) from None
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
