"""Weights in half precision that every engine computes with as they are.

An engine in bfloat16 or in float16 rounds the weights that it is given, the float32 reference does not. Weights that
both formats hold leave engine and reference with the same network; what is rounded then is between layers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


def in_both_halves(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """`values` rounded to the nearest that bfloat16 holds, as float16 without a further loss.

    The relative error is at most 2^-8. bfloat16 has 8 significant bits and float16 has 11, but float16 ends sooner at
    both sides: below 2^-17 its steps of 2^-24 are the coarser ones, and the absolute error is at most 2^-24 there.
    Multiples of 2^-24 below 2^-17 have fewer than 8 bits, so that the result is of both formats everywhere.

    Args:
        values: float32 of any shape.

    Returns:
        float16 of the same shape.

    Raises:
        ValueError: a value is not finite or, rounded, beyond float16's 65504.
    """
    halves: npt.NDArray[np.float16] = (
        torch.from_numpy(np.array(values, dtype=np.float32)).to(torch.bfloat16).to(torch.float16).numpy()
    )
    if not np.isfinite(halves).all():
        raise ValueError("a value is not finite or does not fit into half precision")
    return halves
