"""Conditions of a rule, as configured: equality, sets, regular expressions, ranges, presence, time of day.

A condition that can never hold is refused when the configuration is read, not noticed when a study is missed.
"""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydicom.datadict import keyword_for_tag, tag_for_keyword

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Section(BaseModel):
    """A part of the rules: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def _text(value: Any) -> Any:
    """YAML reads 1.2 and yes as number and truth: conditions compare text, as DICOM's values are."""
    if isinstance(value, bool):
        raise ValueError("allowed is text; put quotes around it")
    return str(value) if isinstance(value, int | float) else value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return value


Text = Annotated[str, BeforeValidator(_text)]
Regex = Annotated[str, AfterValidator(_regex)]


def _as_condition(value: Any) -> Any:
    """The short forms: a plain value stands for `equals`, a list for `in`."""
    if isinstance(value, list | tuple):
        return {"in": value}
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return {"equals": value}
    return value


class Condition(Section):
    """What one value must be; every key that is given must hold.

    `equals`, `in`: text, letter case counts, outer spaces do not. `regex`: is found in the value (Python's `re`).
    `min`, `max`: bounds of a number, inclusive; an age such as 045Y counts in years. `present`: whether there is
    any value. Of an attribute with several values one that satisfies all keys is enough. `not`: what must not hold.
    """

    equals: Text | None = None
    in_: Annotated[tuple[Text, ...] | None, Field(alias="in", min_length=1)] = None
    regex: Regex | None = None
    min: float | None = None
    max: float | None = None
    present: bool | None = None
    not_: Annotated[Condition | None, BeforeValidator(_as_condition), Field(alias="not")] = None

    @model_validator(mode="after")
    def _can_hold(self) -> Condition:
        if not self.model_fields_set:
            raise ValueError("allowed is at least one of equals, in, regex, min, max, present, not")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: no value can be in that range")
        if self.equals is not None and self.in_ is not None and self.equals not in self.in_:
            raise ValueError(f"equals {self.equals!r} is not among in: no value can be both")
        positive = any(v is not None for v in (self.equals, self.in_, self.regex, self.min, self.max))
        if self.present is False and positive:
            raise ValueError("present: false together with a wanted value: no attribute can satisfy both")
        return self


Wanted = Annotated[Condition, BeforeValidator(_as_condition)]


class TimeOfDay(Section):
    """A time of the day, local to the node: from `from` (included) until `until` (not included), over midnight too.

    `days`: the days on which the interval begins; empty for every day.
    """

    from_: Annotated[time, Field(alias="from")] = time(0, 0)
    until: time = time(0, 0)
    days: tuple[Weekday, ...] = ()


def _attribute_path(path: str) -> str:
    """A keyword or (gggg,eeee), with sequences before it: RequestAttributesSequence.RequestedProcedurePriority."""
    return ".".join(_keyword(part) for part in path.split("."))


def _keyword(name: str) -> str:
    if tag_for_keyword(name) is not None:
        return name
    if found := re.fullmatch(r"\(?([0-9A-Fa-f]{4}),? ?([0-9A-Fa-f]{4})\)?", name):
        tag = (int(found[1], 16) << 16) | int(found[2], 16)
        return keyword_for_tag(tag) or f"{tag:08X}"
    raise ValueError(f"{name!r} is no DICOM attribute; allowed is a keyword such as Modality, or 0008,0060")


AttributePath = Annotated[str, AfterValidator(_attribute_path)]


class When(Section):
    """When a rule applies: all that is given must hold; nothing given means always.

    tags: conditions on attributes of a series, by keyword. calling_ae: on the AE title of the sender. time: when the
    study arrived. instances: on the number of instances of the series.
    """

    tags: dict[AttributePath, Wanted] = Field(default_factory=dict)
    calling_ae: Wanted | None = None
    time: TimeOfDay | None = None
    instances: Wanted | None = None

    @property
    def is_always(self) -> bool:
        """Whether no condition is given."""
        return not self.tags and self.calling_ae is None and self.time is None and self.instances is None
