"""Everything that takes foreign bytes, each behind one function that a fuzzer can call.

A target is imported by its name alone, after the fuzzer was told what code to watch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from hostile_input.target import Target


@dataclass(frozen=True)
class Where:
    """Module and name of a target, and the packages whose coverage guides the fuzzer."""

    module: str
    name: str
    watched: tuple[str, ...] = ("scp",)


TARGETS: Mapping[str, Where] = {
    "association": Where("associations", "ASSOCIATION", ("scp", "pynetdicom")),
    "pdus": Where("fragments", "PDUS"),
    "command_set": Where("messages", "COMMAND_SET"),
    "data_set": Where("data_sets", "DATA_SET"),
    "notification": Where("notifications", "NOTIFICATION", ("scp", "pydicom")),
    "stored_file": Where("stored_files", "STORED_FILE", ("engine", "scp", "pydicom")),
    "find_answer": Where("find_answers", "FIND_ANSWER", ("scp", "pydicom")),
    "multipart": Where("multipart_bodies", "MULTIPART"),
    "query_answer": Where("web_answers", "QUERY_ANSWER", ("scp", "pydicom.jsonrep", "dicomweb_client")),
    "fetched_instance": Where("web_answers", "FETCHED_INSTANCE", ("scp", "pydicom")),
    "store_answer": Where("web_answers", "STORE_ANSWER", ("reporting.delivery", "pydicom.jsonrep")),
    "worklist_answer": Where("web_answers", "WORKLIST_ANSWER", ("scp", "pydicom.jsonrep")),
    "configuration": Where("configurations", "CONFIGURATION", ("node", "yaml")),
    "rules": Where("configurations", "RULES", ("node", "yaml")),
}


def target(name: str) -> Target:
    """The target of this name. Raises KeyError."""
    where = TARGETS[name]
    found: Target = getattr(import_module(f"hostile_input.{where.module}"), where.name)
    return found
