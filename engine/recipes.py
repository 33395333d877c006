"""Recipes for engines (trt_engines/*.yaml): which precisions are tried and what an engine has to keep to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import EngineError

Backend = Literal["openvino", "tensorrt", "tensorrt_rtx"]
BuildPrecision = Literal["f32", "bf16", "f16", "int8"]
Measure = Literal["largest", "mean", "map", "relative", "dice"]


class RecipeInvalid(EngineError):
    """A recipe file cannot be used; says which key and why."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tolerance(_Section):
    """How the difference of an output is measured and how much of it is let pass (for dice: how much is needed)."""

    measure: Measure
    limit: Annotated[float, Field(ge=0)]


class Profile(_Section):
    """Slices per call that an engine is built for."""

    smallest: Annotated[int, Field(ge=1)] = 1
    usual: Annotated[int, Field(ge=1)] = 8
    largest: Annotated[int, Field(ge=1)] = 32


Tolerances = dict[str, dict[str, Tolerance]]
"""By graph and output."""


class Recipe(_Section):
    """One recipe file. `int8` are tolerances for engines in INT8, in the place of those in `tolerances`."""

    backend: Backend
    version: Annotated[int, Field(ge=1)]
    precisions: Annotated[tuple[BuildPrecision, ...], Field(min_length=1)]
    timeout_s: Annotated[float, Field(gt=0)] = 600
    profile: Profile = Profile()
    tolerances: Tolerances
    int8: Tolerances = {}

    def allowed(self, graph: str, precision: BuildPrecision) -> dict[str, Tolerance]:
        """What the outputs of an engine have to keep to, by output; no output is without a tolerance in INT8 only."""
        return self.tolerances.get(graph, {}) | (self.int8.get(graph, {}) if precision == "int8" else {})


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises RecipeInvalid, which names the file and the key."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "contents"
        raise RecipeInvalid(f"{path}: {key}: {first['msg']}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeInvalid(f"{path} cannot be read: {error}") from error
