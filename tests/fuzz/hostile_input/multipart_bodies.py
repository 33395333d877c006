"""Bodies of STOW-RS requests: the same parts come out, in whatever pieces a body comes in."""

from __future__ import annotations

from collections.abc import Sequence

from hostile_input.samples import file_of, image
from hostile_input.target import stateless
from scp.instances import InstanceRefused
from scp.multipart import MAX_HEADER_BYTES, Malformed, MultipartReader, boundary_of
from scp.stow import data_set_at

BOUNDARY = "xyz"
HEADERS = (b'multipart/related; type="application/dicom"; boundary=xyz', b"text/html", b"multipart/related")


def body_of(*contents: bytes) -> bytes:
    """A right body with these parts."""
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + content + b"\r\n" for content in contents) + f"--{BOUNDARY}--\r\n".encode()


def seeds() -> Sequence[bytes]:
    """The first byte is the length of the pieces. A line with Content-Type, a line end, the body."""
    one, two = body_of(file_of(image())), body_of(b"a", b"", b"\r\n--xy")
    return [bytes([7]) + HEADERS[0] + b"\n" + body for body in (one, two, b"")] + [
        b"\1" + header + b"\n" for header in HEADERS
    ]


class _Parts:
    """Keeps the parts of a body."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def begin(self, content_type: str) -> _Parts:
        self.bodies.append(b"")
        return self

    def write(self, data: bytes) -> None:
        self.bodies[-1] += data

    def finish(self) -> None:
        """Nothing is left to do."""


def read(body: bytes, piece: int) -> tuple[list[bytes], bool]:
    """The parts of a body that comes in such pieces, and whether it was whole."""
    parts = _Parts()
    reader = MultipartReader(BOUNDARY, parts.begin)
    try:
        for start in range(0, len(body), piece):
            reader.feed(body[start : start + piece])
            assert len(reader._buffer) <= MAX_HEADER_BYTES + piece + len(BOUNDARY) + 8
        reader.finish()
    except Malformed as error:
        assert str(error)
        return parts.bodies, False
    return parts.bodies, True


def take(data: bytes) -> None:
    """Take a body apart at once and in pieces, and look at what its parts are."""
    piece, rest = (data[0] or 1, data[1:]) if data else (1, b"")
    header, _, body = rest.partition(b"\n")
    try:
        boundary = boundary_of(header.decode("latin-1"))
        assert 0 < len(boundary) <= 70
    except Malformed as error:
        assert str(error)
    bodies, whole = read(body, piece)
    if whole:
        assert read(body, len(body) or 1) == (bodies, True)
    for content in bodies:
        try:
            data_set_at(content)
        except InstanceRefused as refusal:
            assert str(refusal)


MULTIPART = stateless(seeds, take)
