"""A moving average of a network's weights, which generalises better than the last step's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An average that follows `network` at every `update_parameters(network)`, statistics of normalisations included.

    The decay rises to `decay` as (1 + n) / (10 + n) over the updates n, so that the start is soon forgotten.
    """

    def mean(average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        if not average.dtype.is_floating_point:
            return current
        kept = min(decay, (1 + int(updates)) / (10 + int(updates)))
        return average.lerp(current, 1 - kept)

    return AveragedModel(network, avg_fn=mean, use_buffers=True)
