"""How studies are screened, and how results are encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from node.configuration.values import Seconds, Section


class WorkerConfiguration(Section):
    """The process that screens studies."""

    lease_seconds: Seconds = 60.0
    max_attempts: int = Field(default=3, ge=1, le=100)
    poll_seconds: Seconds = 0.5
    mixed_packages: bool = False


class ScreeningConfiguration(Section):
    """Which series are screened, and how the networks are run."""

    precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    device: Literal["auto", "openvino", "tensorrt", "torch"] = "auto"
    executor: Literal["local", "ray"] = "local"
    own_models: Literal["required", "optional"] = "required"
    built_engines: bool = True
    while_building: Literal["run", "wait"] = "run"
    engine_cache: Path = Path("trt_engines/cache")
    preferred_kernel: Literal["soft", "lung"] = "soft"
    min_slices: Annotated[int, Field(ge=2)] = 20
    min_cover_mm: Annotated[float, Field(gt=0)] = 120.0
    max_thickness_mm: Annotated[float, Field(gt=0)] = 5.0

    @property
    def uses_built_engines(self) -> bool:
        """Whether built engines are to screen. TensorRT runs no others: whoever asks for it is told why not."""
        return self.device != "torch" and (self.built_engines or self.device == "tensorrt")

    @model_validator(mode="after")
    def _int8_is_built(self) -> ScreeningConfiguration:
        if self.precision == "int8" and not self.uses_built_engines:
            raise ValueError("precision int8 needs built_engines: true and a device other than torch")
        return self


class RayConfiguration(Section):
    """The Ray cluster whose actors screen, where `screening.executor` is ray."""

    address: str = Field(default="auto", min_length=1)
    actors: Annotated[int, Field(ge=1, le=10_000)] = 1
    cpus: Annotated[float, Field(ge=0, le=1024)] = 1.0
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    start_seconds: Seconds = 120.0
    idle_seconds: Seconds = 300.0


class ResultsConfiguration(Section):
    """How result objects are encoded."""

    charset: Literal["utf8", "keep"] = "utf8"
    segmentation: Literal["binary", "labelmap"] = "binary"
    omit_empty_frames: bool = True
    deflated: bool = False
    parametric_map: Literal["compact", "full"] = "compact"
