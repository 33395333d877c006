"""The log: one line an event on standard error, for people or as JSON; no patient data."""

from __future__ import annotations

import logging
import sys
import warnings

import structlog

from node.configuration import LogConfiguration


def configure_logs(configuration: LogConfiguration, part: str) -> None:
    """Set up structlog for this process; `part` is named in every line.

    The libraries' own loggers are silenced: pydicom and pynetdicom write attribute values, names among them.
    """
    for library in ("pydicom", "pynetdicom", "highdicom", "alembic"):
        logging.getLogger(library).addHandler(logging.NullHandler())
        logging.getLogger(library).propagate = False
    warnings.simplefilter("ignore")
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if configuration.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback)
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if configuration.format == "json":
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(configuration.level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(part=part)


def _plain_traceback(stream: object, exception: structlog.typing.ExcInfo) -> None:
    structlog.dev.plain_traceback(stream, exception)  # type: ignore[arg-type]
