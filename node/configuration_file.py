"""Reading a YAML file that holds one mapping, with errors that say where and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class ConfigurationError(Exception):
    """The configuration cannot be used; the message is one line a problem and says what is allowed."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice, which plain YAML readers let the last one win."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is given twice; once is allowed", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_mapping(path: Path, allowed_keys: str) -> dict[str, Any]:
    """The mapping in the file, empty for an empty file. Raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = "use sudo" if isinstance(error, PermissionError) else "give the file with --config"
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text; allowed is YAML in UTF-8") from None
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"{path}: not valid YAML{mark}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: holds {type(content).__name__}; allowed is a mapping with {allowed_keys}"
        )
    return {str(key): value for key, value in content.items()}
