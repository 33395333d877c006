"""What is wrong with a configuration, in words: which key, which value, what is allowed there instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from node.configuration_secrets import HIDDEN, is_secret, without_password


def described(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What validating `model` complained of, as one line: key, value, what is allowed."""
    location = error["loc"]
    key = _dotted(location) or "configuration"
    if error["type"] == "extra_forbidden":
        allowed = allowed_keys(model, location[:-1])
        return f"{key} is no known key{_suggestion(model, location)}; allowed here: {allowed}"
    if error["type"] == "missing":
        return f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error["input"], BaseModel | dict):
        return f"{key}: {message}" if location else message  # it is about keys that do not fit each other
    if error["type"] == "model_type":
        message = f"allowed is a mapping with {allowed_keys(model, location)}"
    if error["type"] == "tuple_type":
        message = f"it must be a list, such as [{_shown(key, error['input'])}]"
    return f"{key} = {_shown(key, error['input'])} is not allowed: {message[0].lower()}{message[1:]}"


def _dotted(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _shown(key: str, value: object) -> str:
    if is_secret(key):
        return HIDDEN
    if isinstance(value, BaseModel | dict):
        return f"a mapping with {', '.join(map(str, dict(value)))}"
    text = without_password(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _suggestion(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    close = difflib.get_close_matches(str(location[-1]), list(_fields(model, location[:-1])), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def allowed_keys(model: type[BaseModel], location: tuple[int | str, ...] = ()) -> str:
    """The keys that are allowed in the section of `model` at `location`, by the names that a file uses."""
    return ", ".join(_fields(model, location))


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterator[str]:
    section: Any = model
    for part in location:
        section = _section(_inside(section, part))
    if isinstance(section, type) and issubclass(section, BaseModel):
        yield from (field.alias or name for name, field in section.model_fields.items())


def _inside(kind: Any, part: int | str) -> Any:
    """The annotation of what lies under a key or index of something annotated as `kind`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        return fields.get(str(part))
    arguments = get_args(kind)
    return arguments[1 if get_origin(kind) is dict else 0] if arguments else None


def _section(kind: Any) -> Any:
    """What an annotation says without Annotated, None and names that are resolved later."""
    if get_origin(kind) is Annotated:
        return _section(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return next((_section(k) for k in get_args(kind) if k is not NoneType), None)
    return kind
