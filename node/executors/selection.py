"""Which executor the configuration asks for. Ray is imported only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engine.engine_cache import EngineRecord
from engine.errors import RunnerFailed
from engine.runners.interface import RunnerOptions
from engine.screening import open_systems
from node.configuration import Configuration
from node.executors.interface import Executor
from node.executors.local import LocalExecutor


def open_executor(
    models: Sequence[Path],
    runner: RunnerOptions,
    configuration: Configuration,
    report: Callable[[EngineRecord], None] = lambda record: None,
) -> Executor:
    """The executor of `screening.executor` with the packages `models`.

    report: told of engines that are built in this process.

    Raises engine.errors.PackageInvalid, engine.errors.RunnerFailed, also where Ray is asked for and not installed.
    """
    if configuration.screening.executor == "local":
        return LocalExecutor(open_systems(models, runner, report))
    try:
        from node.executors.ray_executor import RayExecutor, RayOptions
    except ModuleNotFoundError as error:
        raise RunnerFailed(
            f"screening.executor is ray, but {error.name} is not installed: pip install 'lungnode[ray]'"
        ) from None
    section = configuration.ray
    return RayExecutor(
        models,
        runner,
        RayOptions(
            section.address,
            section.actors,
            section.cpus,
            section.gpus,
            section.start_seconds,
            section.idle_seconds,
        ),
    )
