"""Whether two files are one instance in two transfer syntaxes: archives send those that compress or decompress what
they keep.

The standard leaves open what an SCP does with an instance that it has (PS3.7 9.1.1, PS3.4 B.2). Archives keep theirs
and answer success; so is done here where nothing but the encoding differs.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from engine.decoding import stored_frames
from engine.errors import Undecodable
from engine.headers import MALFORMED

MAX_BYTES = 64 * 2**20
"""Larger files are not compared: both are decoded in the listener, which keeps its memory for receiving."""
_OF_AN_ENCODING = frozenset(("DerivationDescription", "DataSetTrailingPadding"))
"""Beside group lengths. Encoders write into Derivation Description (PS3.3 C.7.6.1.1.3) how they compressed."""


def is_same_in_other_syntax(held: Path, come: Path) -> bool:
    """Whether `come` is what `held` is, encoded otherwise: the same attributes, the same pixel values.

    What cannot be read or decoded is not the same, nor what is larger than `MAX_BYTES`, nor what has the same transfer
    syntax.
    """
    try:
        if max(held.stat().st_size, come.stat().st_size) > MAX_BYTES:
            return False
        first, second = (dcmread(path, stop_before_pixels=True) for path in (held, come))
        if first.file_meta.TransferSyntaxUID == second.file_meta.TransferSyntaxUID:
            return False
        return _attributes(first) == _attributes(second) and ("Rows" not in first or _same_pixels(held, come))
    except (Undecodable, *MALFORMED):
        return False


def _attributes(dataset: Dataset) -> bytes:
    """The attributes before the pixels that belong to no encoding, in one encoding. Raises what pydicom raises."""
    bare = Dataset(
        {
            element.tag: element
            for element in dataset
            if element.tag.element != 0 and element.keyword not in _OF_AN_ENCODING
        }
    )
    encoded = BytesIO()
    dcmwrite(encoded, bare, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return encoded.getvalue()


def _same_pixels(held: Path, come: Path) -> bool:
    """Raises Undecodable."""
    pairs = zip(stored_frames(held), stored_frames(come), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)
