"""DIMSE services beside C-ECHO and C-STORE that a listener may offer: what each negotiates and who handles it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pynetdicom import evt
from pynetdicom.presentation import PresentationContext

from store.receipts import Peer

Handler = Callable[[evt.Event, Peer], Any]
"""Takes an event and who asks, returns what pynetdicom's handler of that event returns."""


@dataclass(frozen=True)
class FurtherService:
    """contexts: makes new presentation contexts, since an association keeps and changes its own.

    handlers: pynetdicom's events with their handlers; no two services of a listener may handle the same event.
    """

    contexts: Callable[[], tuple[PresentationContext, ...]]
    handlers: tuple[tuple[Any, Handler], ...]
