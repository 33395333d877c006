"""multipart/related bodies (RFC 2046 5.1, RFC 2387) taken apart as they arrive, in bounded memory. No I/O."""

from __future__ import annotations

from email.message import Message
from typing import Protocol

MAX_HEADER_BYTES = 16 * 1024
MAX_BOUNDARY = 70
"""RFC 2046 5.1.1."""


class Malformed(Exception):
    """Not a multipart body, or one that ends too early; one line that says what is wrong."""


class Part(Protocol):
    """Takes the body of one part."""

    def write(self, data: bytes) -> None:
        """The next bytes."""
        ...

    def finish(self) -> None:
        """The part is whole."""
        ...


class PartFactory(Protocol):
    """Begins a part."""

    def __call__(self, content_type: str) -> Part: ...


def boundary_of(content_type: str) -> str:
    """The boundary of a multipart/related body of DICOM files (PS3.18 8.6.1). Raises Malformed."""
    message = Message()
    message["Content-Type"] = content_type
    if message.get_content_type() != "multipart/related":
        raise Malformed("Content-Type is not multipart/related")
    kind = str(message.get_param("type", "application/dicom"))
    boundary = str(message.get_param("boundary", ""))
    if kind.lower() != "application/dicom":
        raise Malformed(f"parts of type {kind[:40]} are not taken; application/dicom is")
    if not 0 < len(boundary) <= MAX_BOUNDARY or not boundary.isascii():
        raise Malformed("no boundary, or one longer than 70 characters")
    return boundary


class MultipartReader:
    """Feed it the body in pieces of any size; each part's bytes go on at once, but for the length of a delimiter."""

    def __init__(self, boundary: str, begin: PartFactory) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._begin = begin
        self._buffer = bytearray(b"\r\n")  # so that the first delimiter looks like all others
        self._lead = len(self._buffer)  # bytes in front that are no content
        self._part: Part | None = None
        self._in_headers = False
        self._done = False

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises Malformed."""
        self._buffer += data
        while not self._done and (self._headers() if self._in_headers else self._body()):
            pass
        if self._done:
            self._buffer.clear()  # the epilogue

    def finish(self) -> None:
        """The body has ended. Raises Malformed where a part or the closing delimiter is missing."""
        if not self._done:
            raise Malformed("the body ends without its closing delimiter")

    def _body(self) -> bool:
        """Pass on what belongs to the part; True when a delimiter was taken."""
        at = self._buffer.find(self._delimiter)
        if at < 0:
            surely = len(self._buffer) - len(self._delimiter) - 2
            if surely > self._lead:
                self._write(bytes(self._buffer[self._lead : surely]))
                del self._buffer[:surely]
                self._lead = 0
            return False
        after = at + len(self._delimiter)
        if len(self._buffer) < after + 2:
            return False
        closing = self._buffer[after : after + 2] == b"--"
        line_end = after + 2 if closing else self._buffer.find(b"\r\n", after)
        if line_end < 0:
            if len(self._buffer) - after > MAX_HEADER_BYTES:
                raise Malformed("a delimiter line without end")
            return False
        self._write(bytes(self._buffer[self._lead : at]))
        self._lead = 0
        if self._part is not None:
            self._part.finish()
            self._part = None
        del self._buffer[:line_end]
        self._done, self._in_headers = closing, not closing
        return True

    def _headers(self) -> bool:
        """Take a part's header and begin the part; True when that was done."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEADER_BYTES:
                raise Malformed("the header of a part is too long")
            return False
        kind = ""
        for line in bytes(self._buffer[:end]).decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-type":
                kind = value.strip()
        # The CRLF stays: the delimiter behind an empty body has no other
        del self._buffer[: end + 2]
        self._lead = 2
        self._part = self._begin(kind)
        self._in_headers = False
        return True

    def _write(self, data: bytes) -> None:
        if self._part is not None and data:
            self._part.write(data)
