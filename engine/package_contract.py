"""What metadata.json of every model package says, whatever its system."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the metadata that serving reads; other keys are for people and are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Graph(Section):
    """One ONNX graph of a package."""

    file: FileName


class Metadata(Section):
    """The part of metadata.json that serving reads; what else it says is left alone."""

    schema_: Annotated[Literal["lungnode-package/1"], Field(alias="schema")]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    graphs: dict[str, Graph]
    files: dict[FileName, Sha256]
