"""What a training starts from: ImageNet weights of an encoder, or the outputs of earlier trainings."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from networks.jcs import JCSClassifier, JCSJoint
from training.baselines import installed_weights
from training.recipe import Recipe, RecipeError

UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""What torch's restricted unpickler and safetensors raise on a file that holds no weights, or half of them."""


def load_start_weights(network: nn.Module, recipe: Recipe, encoder: dict[str, Tensor] | None) -> None:
    """Put ImageNet weights into the network's encoder. Raises RecipeError where they do not fit."""
    if encoder is None:
        return
    target: Any = getattr(network, "encoder", network)
    if not hasattr(target, "load_imagenet"):
        raise RecipeError(f"start.encoder: {recipe.task} has no encoder that takes ImageNet weights")
    try:
        target.load_imagenet(encoder)
    except RuntimeError as error:
        raise RecipeError(f"start.encoder: the weights do not fit the network: {_one_line(error)}") from error


def load_joint_parts(network: nn.Module, segmenter: nn.Module | None, classifier: nn.Module | None) -> None:
    """Put trained parts into a joint network. Raises RecipeError where sizes differ or a part is a baseline."""
    joint = cast(JCSJoint, network)
    try:
        if segmenter is not None:
            joint.segmenter.load_state_dict(segmenter.state_dict())
        if classifier is not None:
            if not isinstance(classifier, JCSClassifier):
                raise RecipeError("start.classifier is a baseline; its features cannot be fused")
            joint.trunk.load_state_dict(classifier.encoder.state_dict())
    except RuntimeError as error:
        raise RecipeError(
            "start: the trained parts are of other sizes than network.segmenter and network.trunk"
        ) from error


IMAGENET_WEIGHTS = {
    "Res2NetEncoder": "https://shanghuagao.oss-cn-beijing.aliyuncs.com/res2net/res2net101_v1b_26w_4s-0812c246.pth",
    "ResNetEncoder": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "VGGEncoder": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
"""Where the authors and torchvision keep the weights of the full-size encoders."""


def imagenet_weights(network: nn.Module, source: str | None) -> dict[str, Tensor] | None:
    """Weights of a file, of the internet ("fetch"), of a Python package beside ("installed"), or None.

    Never unpickles anything but tensors.

    Raises RecipeError where there is no such file or the machine cannot fetch.
    """
    if source is None:
        return None
    try:
        if source == "fetch":
            return _fetched(network)
        return read_weights(installed_weights(network) if source == "installed" else Path(source))
    except ValueError as error:
        raise RecipeError(f"start.encoder: {error}; leave it out to start from nothing") from error


def read_weights(path: Path) -> dict[str, Any]:
    """The state dict of a safetensors file or of one that torch saved; nothing but tensors is unpickled.

    Raises RecipeError.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except UNREADABLE as error:
        raise RecipeError(f"{path} cannot be read as weights: {_one_line(error)}") from error


def _fetched(network: nn.Module) -> dict[str, Any]:
    kind = type(getattr(network, "encoder", network)).__name__
    if kind not in IMAGENET_WEIGHTS:
        raise RecipeError(f"no ImageNet weights of {kind} are known to fetch")
    try:
        return dict(
            torch.hub.load_state_dict_from_url(
                IMAGENET_WEIGHTS[kind], map_location="cpu", check_hash=True, weights_only=True
            )
        )
    except UNREADABLE as error:
        raise RecipeError(f"{IMAGENET_WEIGHTS[kind]} cannot be fetched: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def recipe_directory(path: Path | None, key: str) -> Path:
    """A training output that a recipe must name. Raises RecipeError."""
    if path is None:
        raise RecipeError(f"start.{key} must name the output of a training")
    return path
