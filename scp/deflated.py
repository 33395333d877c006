"""How large a deflated data set becomes: counted before anybody unfolds it in memory (PS3.5 A.5)."""

from __future__ import annotations

import zlib
from pathlib import Path

from scp.header import UnreadableDataset

PIECE = 1024 * 1024


class InflatesTooFar(Exception):
    """The data set unfolds to more than the limit."""


def check_inflated_size(path: Path, data_set_at: int, limit: int) -> None:
    """Unfold a data set piece by piece, keeping nothing. Raises InflatesTooFar, UnreadableDataset, OSError."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    with path.open("rb") as file:
        file.seek(data_set_at)
        while not inflater.eof and (data := inflater.unconsumed_tail or file.read(PIECE)):
            try:
                total += len(inflater.decompress(data, PIECE))
            except zlib.error as error:
                raise UnreadableDataset(f"not a deflated data set ({error})") from None
            if total > limit:
                raise InflatesTooFar(f"the data set unfolds to more than {limit // 2**20} MiB")
