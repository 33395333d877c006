"""Screening on actors of a Ray cluster: each holds the engines, the volume goes through Ray's object store.

A worker needs no disk in common with the actors: they get the model packages themselves, too. A study whose node is
lost is given to another actor; an actor that died is started again wherever Ray has room. One volume is under way for
each actor, so that the object store holds no more than that.

Only this module imports ray.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import structlog
from ray.exceptions import (
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RaySystemError,
    RayTaskError,
)

from engine.errors import RunnerFailed
from engine.findings import Findings, PackageReference
from engine.runners.interface import RunnerOptions
from engine.screening import open_systems, screen
from engine.series_choice import SeriesRules
from engine.volume import Series, Volume
from node.executors.shipping import (
    ShippedPackage,
    packed_package,
    unpacked_package,
    without_headers,
)
from node.installation import shipped

NAMESPACE = "lungnode"
MOST_LOSSES = 3
"""So many actors may be lost over one study; then the study is taken for what kills them."""
_LOOK_SECONDS = 0.1
_RETIRE_SECONDS = 10.0
_HEAD_SECONDS = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("ray")


class ClusterAway(RunnerFailed):
    """The head of the cluster does not answer; it may do so later, so whoever started this starts it again."""


@dataclass(frozen=True)
class RayOptions:
    """Which cluster, and what an actor asks of it.

    address: `auto` for the cluster that this machine belongs to (or RAY_ADDRESS names), `local` for one that is
    started here and ends with this process, else HOST:PORT of the head. actors: how many at most. They are started as
    volumes wait for one, and those for which the cluster has no room wait, which is what Ray's autoscaler adds machines
    for; all but one end after idle_seconds without work, and Ray's autoscaler takes their machines away.
    start_seconds: longest wait for the first.
    """

    address: str = "auto"
    actors: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    start_seconds: float = 120.0
    idle_seconds: float = 300.0


@dataclass(frozen=True)
class Equipment:
    """What an actor screens with."""

    packages: tuple[PackageReference, ...]
    descriptions: dict[str, str]


class ScreeningActor:
    """Lives on a node of the cluster and holds the engines."""

    def __init__(self, packages: Sequence[ShippedPackage], options: RunnerOptions) -> None:
        # Graphs are read when they first run, so the folder lives as long as the actor
        self._folder = tempfile.TemporaryDirectory(prefix="lungnode-packages-")
        paths = [unpacked_package(package, Path(self._folder.name)) for package in packages]
        self._systems = open_systems(paths, _on_this_machine(options))

    def equipment(self) -> Equipment:
        """Answers once the engines are open."""
        return Equipment(self._systems.packages, dict(self._systems.descriptions))

    def screen(self, volume: Volume, rules: SeriesRules) -> Findings:
        """`engine.screening.screen`. Raises what that raises."""
        return screen(volume, self._systems, rules)


def _on_this_machine(options: RunnerOptions) -> RunnerOptions:
    """The options with the recipes of this machine's installation; engines are built and kept here, too."""
    if options.engines is None:
        return options
    return replace(options, engines=replace(options.engines, recipes=shipped("trt_engines")))


class RayExecutor:
    """Screens on the actors of one cluster, which end with it; so does the process's connection to the cluster.

    Raises RunnerFailed where no actor can be started.

    lost_actors: how many have died so far. clock: seconds that pass evenly.
    """

    def __init__(
        self,
        models: Sequence[Path],
        runner: RunnerOptions,
        options: RayOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._clock = clock
        self._free: list[tuple[Any, float]] = []
        self._starting: dict[Any, Any] = {}
        self._busy = self._waiting = 0
        self._change = threading.Condition()
        self._ended = threading.Event()
        _connect(options)
        threads = runner.threads or max(1, math.floor(options.cpus))
        actor: Any = ray.remote(ScreeningActor)
        self._open = actor.options(num_cpus=options.cpus, num_gpus=options.gpus)
        self._packages = ray.put([packed_package(path) for path in models])
        self._runner = replace(runner, threads=threads)
        self._equipment: Equipment | None = None
        self.lost_actors = 0
        try:
            self._give_back(self._take())
        except RunnerFailed:
            self.__exit__()
            raise
        threading.Thread(target=self._retire_idle, name="ray actors", daemon=True).start()

    @property
    def packages(self) -> tuple[PackageReference, ...]:
        return self._known.packages

    @property
    def descriptions(self) -> Mapping[str, str]:
        return self._known.descriptions

    @property
    def reasons(self) -> Mapping[str, str]:
        return {}

    def screen(
        self, volume: Series, rules: SeriesRules, *, clock: Callable[[], float] = time.perf_counter
    ) -> Findings:
        begin = clock()
        lost = 0
        sent = without_headers(volume.whole())  # an image that cannot be decoded must not cost an actor
        actor = self._take()
        try:
            shipped = ray.put(sent)
        except RayError as error:
            self._give_back(actor)
            raise RunnerFailed(f"Ray: {type(error).__name__}: {error}") from None
        while True:
            try:
                findings: Findings = ray.get(actor.screen.remote(shipped, rules))
            except RayTaskError as error:
                self._give_back(actor)
                raise _cause(error) from None
            except (RayActorError, ObjectLostError) as error:
                lost += 1
                self._replace(actor, error)
                if lost >= MOST_LOSSES:
                    raise RunnerFailed(f"{lost} Ray actors were lost over this study") from None
                actor = self._take()
            except RayError as error:
                self._give_back(actor)
                raise RunnerFailed(f"Ray: {type(error).__name__}: {error}") from None
            else:
                self._give_back(actor)
                overhead = clock() - begin - sum(findings.timings_s.values())
                return replace(findings, timings_s=findings.timings_s | {"transfer": overhead})

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        ray.shutdown()

    @property
    def actors(self) -> int:
        """How many actors there are, those included that wait for room in the cluster."""
        return len(self._free) + self._busy + len(self._starting)

    @property
    def _known(self) -> Equipment:
        assert self._equipment is not None, "the first actor has answered before the executor is handed out"
        return self._equipment

    def _start_one(self) -> None:
        actor = self._open.remote(self._packages, self._runner)
        self._starting[actor.equipment.remote()] = actor

    def _take(self) -> Any:
        """An actor that nobody uses; waits for one. Raises RunnerFailed where none starts in time."""
        deadline = self._clock() + self._options.start_seconds
        with self._change:
            self._waiting += 1
            try:
                while not self._free:
                    self._await_one(deadline)
            finally:
                self._waiting -= 1
            self._busy += 1
            return self._free.pop()[0]

    def _await_one(self, deadline: float) -> None:
        """See to it that an actor is under way for everybody who waits, and look whether one has started."""
        if len(self._starting) < self._waiting and self.actors < self._options.actors:
            self._start_one()
        self._harvest()
        if self._free:
            return
        if not self._busy and self._clock() > deadline:
            raise RunnerFailed(self._no_room())
        self._change.wait(_LOOK_SECONDS)

    def _give_back(self, actor: Any) -> None:
        with self._change:
            self._busy -= 1
            self._free.append((actor, self._clock()))
            self._change.notify()

    def _retire_idle(self) -> None:
        """End actors that have been without work for long, all but one: what is free longest is used last."""
        while not self._ended.wait(min(self._options.idle_seconds, _RETIRE_SECONDS)):
            with self._change:
                while self.actors > 1 and self._free and self._is_idle(self._free[0][1]):
                    actor, _ = self._free.pop(0)
                    log.info("actor without work ends", left=self.actors)
                    ray.kill(actor)

    def _is_idle(self, since: float) -> bool:
        return self._clock() - since > self._options.idle_seconds

    def _replace(self, actor: Any, error: Exception) -> None:
        """Start another actor for one that is lost; those that are free are taken first."""
        log.warning("actor lost: its study goes to another", why=" ".join(str(error).split())[:200])
        ray.kill(actor)
        with self._change:
            self._busy -= 1
            self.lost_actors += 1
            self._start_one()

    def _harvest(self) -> None:
        """Take in the actors that have answered since. Raises RunnerFailed for one that cannot open the packages."""
        ready, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)
        for answer in ready:
            actor = self._starting.pop(answer)
            try:
                equipment: Equipment = ray.get(answer)
            except RayTaskError as error:
                raise RunnerFailed(f"Ray actor: {_cause(error)}") from None
            except RayActorError as error:
                if error.actor_init_failed:
                    raise RunnerFailed(f"Ray actor: {str(error).splitlines()[-1]}") from None
                self._start_one()
                continue
            if self._equipment is not None and equipment != self._equipment:
                raise RunnerFailed(
                    f"a Ray actor runs {equipment.descriptions}, others {self._known.descriptions}: results "
                    "would differ; set screening.precision and screening.device for all"
                )
            self._equipment = equipment
            self._free.append((actor, self._clock()))

    def _no_room(self) -> str:
        options = self._options
        cluster: Any = ray
        room = cluster.cluster_resources()
        return (
            f"no Ray actor could be started in {options.start_seconds:g} s: each asks for {options.cpus:g} CPUs and "
            f"{options.gpus:g} GPUs, the cluster has {room.get('CPU', 0):g} and "
            f"{room.get('GPU', 0):g}; see ray.cpus, ray.gpus, ray.actors"
        )


def _connect(options: RayOptions) -> None:
    """Join or start the cluster, once in a process. Raises RunnerFailed."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else what is started here runs with nice 15
    settings: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "configure_logging": False}
    _await_head(options)
    if options.address == "local":
        settings |= {"include_dashboard": False, "num_cpus": math.ceil(options.cpus * options.actors)}
    try:
        ray.init(address=options.address, **settings)
    except (ConnectionError, RuntimeError, ValueError, RaySystemError, GetTimeoutError) as error:
        raise RunnerFailed(f"Ray at {options.address}: {error}; start it, or set ray.address") from None


def _await_head(options: RayOptions) -> None:
    """Wait for a head that is named by HOST:PORT: Ray itself would try for many minutes, and not say so.

    Raises ClusterAway.
    """
    host, _, port = options.address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    deadline = time.monotonic() + options.start_seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=options.start_seconds).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterAway(
                    f"Ray at {options.address}: {error.strerror or error}; start it, or set ray.address"
                ) from None
            log.warning("the head of the Ray cluster does not answer", address=options.address)
            time.sleep(min(_HEAD_SECONDS, options.start_seconds))


def _cause(error: Exception) -> Exception:
    """What the actor itself raised."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
