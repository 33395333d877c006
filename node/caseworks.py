"""All that a worker screens with, and how it comes to built engines while studies are waiting."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from engine.engine_cache import EngineCache, EngineRecord
from engine.errors import NotScreenable
from node.casework import Casework, open_casework, open_special_casework
from node.configuration import Configuration
from node.presence import utc_now

READY_ENGINES_SECONDS = 1.0
"""Engines that were built before are open within this long: a worker gives them so much before its first study."""

DEVICE_ATTEMPTS = 2
"""A study that has failed so often is taken by the processor, where it may, as the fault may be the GPU's."""

UNUSED = timedelta(days=30)
"""Engines that were not opened for so long are of packages, libraries or machines that are gone."""

Report = Callable[[EngineRecord], None]

log: structlog.stdlib.BoundLogger = structlog.get_logger("worker")


@dataclass(frozen=True, eq=False)
class Caseworks:
    """The usual casework and its stand-ins.

    special: for rules that name packages, by their names. on_processor: opens the casework that does without a GPU,
    None where there is no other.
    """

    usual: Casework
    special: Mapping[tuple[str, ...], Casework] = field(default_factory=dict)
    on_processor: Callable[[], Casework] | None = None

    def for_study(self, packages: tuple[str, ...] | None, attempt: int) -> Casework:
        """What screens a study, after the packages that the rules chose (None: the usual ones) and the attempt.

        Raises engine.errors.NotScreenable where these packages are no longer configured.
        """
        if packages is None:
            if attempt > DEVICE_ATTEMPTS and self.on_processor is not None:
                return self.on_processor()
            return self.usual
        if packages not in self.special:
            raise NotScreenable(
                f"the rules chose packages {', '.join(packages)}, which no rule names any more"
            )
        return self.special[packages]

    def close(self) -> None:
        """Give memory and devices back."""
        with ExitStack() as closing:
            for one in (self.usual, *self.special.values()):
                closing.push(one.executor)


class CaseworksAtHand:
    """The caseworks to screen with now; a context manager, which closes them.

    first: what there is at once. built: opens, in a thread, what comes in its place. waits: whether studies wait for
    that.
    """

    def __init__(
        self, first: Caseworks, built: Callable[[], Caseworks] | None = None, *, waits: bool = False
    ) -> None:
        self._present, self._waits = first, waits
        self._coming: Future[Caseworks] | None = None if built is None else _in_a_thread(built)

    @property
    def equipment(self) -> str:
        """See `Casework.equipment`."""
        return self._present.usual.equipment

    def wait(self, seconds: float) -> None:
        """Wait for the built engines, but no longer than this."""
        if self._coming is not None:
            futures.wait([self._coming], seconds)

    def now(self) -> Caseworks | None:
        """The best that there is; None while studies wait. What was given before is closed when it is replaced.

        Raises what `built` raised.
        """
        if self._coming is not None and self._coming.done():
            built, self._coming = self._coming.result(), None
            self._present.close()
            self._present = built
            log.info("built engines are in use")
        return None if self._waits and self._coming is not None else self._present

    def __enter__(self) -> CaseworksAtHand:
        return self

    def __exit__(self, *_: object) -> None:
        self._present.close()


def _in_a_thread(built: Callable[[], Caseworks]) -> Future[Caseworks]:
    """What `built` gives. A daemon: a worker that is told to stop does not wait for a build of minutes."""
    coming: Future[Caseworks] = Future()

    def fulfil() -> None:
        try:
            coming.set_result(built())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            coming.set_exception(error)

    threading.Thread(target=fulfil, name="engine builds", daemon=True).start()
    return coming


def open_caseworks(
    configuration: Configuration,
    report: Report = lambda record: None,
    clock: Callable[[], datetime] = utc_now,
) -> CaseworksAtHand:
    """What a worker with this configuration screens with.

    Where engines are to be built and are not ready yet, a thread builds them, and meanwhile the packages' ONNX is run
    by the processor in float32, which needs no verification, or studies wait (`screening.while_building`).

    report: told of engines that are built, in that thread. clock: says how old engines are that nobody uses, which are
    deleted. Raises engine.errors.PackageInvalid, engine.errors.RunnerFailed.
    """
    screening = configuration.screening
    if screening.executor == "ray" or not screening.uses_built_engines:
        return CaseworksAtHand(_opened(configuration, report))
    plain = screening.model_copy(update={"built_engines": False, "device": "openvino"})
    return CaseworksAtHand(
        _opened(configuration.model_copy(update={"screening": plain}), report),
        lambda: _built(configuration, report, clock),
        waits=screening.while_building == "wait" or screening.device == "tensorrt",
    )


def _built(configuration: Configuration, report: Report, clock: Callable[[], datetime]) -> Caseworks:
    opened = _opened(configuration, report)
    try:
        cache = EngineCache(configuration.screening.engine_cache)
        for key in cache.forget_unused((clock() - UNUSED).timestamp()):
            log.info("engine deleted, which nobody has used for long", engine=key.stem)
    except OSError as error:  # the next start tries again
        log.warning("engines that nobody uses cannot be deleted", why=error.strerror, where=error.filename)
    return opened


def _opened(configuration: Configuration, report: Report) -> Caseworks:
    usual = open_casework(configuration, report=report)
    for system, why in usual.executor.reasons.items():
        log.info("runner", system=system, runs_on=usual.executor.descriptions[system], why=why)
    special = open_special_casework(configuration, report)
    return Caseworks(usual, special, processor_casework(configuration, usual))


def processor_casework(configuration: Configuration, casework: Casework) -> Callable[[], Casework] | None:
    """Opens, once, the casework that does without a GPU; None where no GPU is in use or one is asked for by name."""
    descriptions = casework.executor.descriptions.values()
    on_gpu = any("TensorRT" in words or "cuda" in words for words in descriptions)
    if configuration.screening.device != "auto" or not on_gpu:
        return None
    screening = configuration.screening.model_copy(update={"device": "openvino"})
    return functools.cache(lambda: open_casework(configuration.model_copy(update={"screening": screening})))
