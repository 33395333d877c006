"""Why a study or a package cannot be used. Every message is one line, fit for the store and for a terminal."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all that the engine refuses; `str(error)` is the reason in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split()))


class NotScreenable(EngineError):
    """The study is sound but not for screening (no CT, no lungs, too few slices ...): it is to be skipped."""


class Undecodable(EngineError):
    """The study ought to be screened but cannot be read (truncated, corrupt, no codec): it has failed."""


class PackageInvalid(EngineError):
    """A model package is incomplete, altered or of another contract; says which file and what."""


class RunnerFailed(EngineError):
    """An inference engine could not be built or could not run; says which graph and why."""


class OutOfDeviceMemory(RunnerFailed):
    """The accelerator has too little memory for this many slices at once; fewer may go through."""


class DeviceLost(RunnerFailed):
    """The context on the accelerator is gone, with all that this process has there: the process has to start anew."""
