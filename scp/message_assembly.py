"""From the fragments of one association to its messages (PS3.7 6.3, PS3.8 annex E).

Data sets of C-STORE go on as they come, everything else to pynetdicom.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, cast

from pynetdicom.pdu_primitives import P_DATA

from scp.command_set import (
    MAX_COMMAND_BYTES,
    Command,
    UnreadableCommand,
    command_pdu,
    read_command,
    store_response,
)
from scp.pdata import ProtocolViolation
from scp.receipt import Answer

MAX_PASSED_BYTES = 32 * 2**20
"""Largest data set of another message than C-STORE: it is held in memory. A request for commitment to the most
instances that are taken has half of it."""


class Storing(Protocol):
    """One data set on its way to disk."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""

    def finish(self) -> Answer:
        """The data set is whole: keep it, and say what the sender is told."""

    def abandon(self) -> None:
        """The rest will never come. Calling it after `finish` does nothing."""


BeginStoring = Callable[[Any, Command, str, str], Storing]
"""Begins a data set: association, request, abstract and transfer syntax of its presentation context."""


class MessageAssembly:
    """Puts the PDVs of one association together: C-STORE data sets to disk, everything else to pynetdicom.

    Only the DUL thread calls `take`; `abandon` comes from others too when an association ends, hence the lock.
    """

    def __init__(self, association: Any, begin: BeginStoring) -> None:
        self._association = association
        self._begin = begin
        self._lock = threading.Lock()
        self._command = bytearray()
        self._request: Command | None = None
        self._storing: Storing | None = None
        self._context_id = 0
        self._passing = False
        self._passed = 0

    def take(self, context_id: int, control: int, data: memoryview) -> None:
        """Take a fragment of a message, or a part of one. Raises ProtocolViolation, OSError."""
        with self._lock:
            self._fragment(context_id, control, data)

    def abandon(self) -> None:
        """Give up the data set that is not whole, if there is one."""
        with self._lock:
            if self._storing is not None:
                self._storing.abandon()
            self._storing = self._request = None
            self._command.clear()

    def _fragment(self, context_id: int, control: int, data: memoryview) -> None:
        is_command, is_last = bool(control & 1), bool(control & 2)
        if self._passing:
            self._passed += len(data)
            if self._passed > MAX_PASSED_BYTES:
                raise ProtocolViolation(f"a data set of no image is longer than {MAX_PASSED_BYTES} bytes")
            self._pass_on(context_id, control, bytes(data))
            self._passing = not is_last
        elif self._storing is not None:
            self._data(context_id, is_command, is_last, data)
        elif is_command:
            self._command += data
            if len(self._command) > MAX_COMMAND_BYTES:
                raise ProtocolViolation(f"a command set is longer than {MAX_COMMAND_BYTES} bytes")
            if is_last:
                self._begin_message(context_id)
        else:
            raise ProtocolViolation("a data set came without a command")

    def _begin_message(self, context_id: int) -> None:
        encoded = bytes(self._command)
        self._command.clear()
        try:
            command = read_command(encoded)
        except UnreadableCommand as error:
            raise ProtocolViolation(str(error)) from error
        if not command.is_store_request:
            self._pass_on(context_id, 0x03, encoded)
            self._passing, self._passed = command.has_data_set, 0
            return
        for context in self._association.accepted_contexts:
            if context.context_id == context_id:
                self._request, self._context_id = command, context_id
                self._storing = self._begin(
                    self._association, command, str(context.abstract_syntax), str(context.transfer_syntax[0])
                )
                return
        raise ProtocolViolation(f"presentation context {context_id} was not accepted")

    def _data(self, context_id: int, is_command: bool, is_last: bool, data: memoryview) -> None:
        storing, request = cast(Storing, self._storing), cast(Command, self._request)
        if is_command:
            raise ProtocolViolation("a command came inside a data set")
        if context_id != self._context_id:
            raise ProtocolViolation("a data set came in another presentation context than its command")
        storing.write(data)
        if is_last:
            self._storing = self._request = None
            answer = storing.finish()
            response = store_response(request, answer.status, answer.comment)
            self._association.dul.socket.send(command_pdu(context_id, response))

    def _pass_on(self, context_id: int, control: int, data: bytes) -> None:
        primitive: Any = P_DATA()  # it insists on lists where its annotation says tuples
        primitive.presentation_data_value_list = [[context_id, bytes([control]) + data]]
        self._association.dimse.receive_primitive(primitive)
