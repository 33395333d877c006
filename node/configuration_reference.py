"""The reference of the configuration as Markdown: types and limits from the model, words from the shipped file.

`mkdocs.yml` puts it into the site; `python -m node.configuration_reference` prints it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from node.configuration import Configuration
from node.installation import shipped

HEAD = """# Configuration

One YAML file, `config.yaml`; every key has a default. `lungnode config check` says whether a file is right,
`lungnode config show` prints what is in force. Any key can be set from the environment:
`LUNGNODE_LISTENER__PORT=104` overrides `listener.port`. Relative paths are meant from the folder of the file.

This page is made from the program (`python -m node.configuration_reference`).
"""

Schema = Mapping[str, Any]


def reference(example: str) -> str:
    """The whole page. example: the text of the shipped config.yaml, whose comments explain the keys."""
    schema = Configuration.model_json_schema(by_alias=True)
    words = key_comments(example)
    parts = [HEAD]
    for name, field in schema["properties"].items():
        parts.append("\n".join(_section(name, field, schema, words)))
    return "\n".join(parts)


def key_comments(text: str) -> dict[str, str]:
    """The comment of every key of a YAML file that is written as config.yaml is, by dotted key."""
    found: dict[str, str] = {}
    above, current, section = "", "", ""
    for line in text.splitlines():
        key = re.match(r"(\s*)(?:- )?'?([a-z_0-9]+)'?:([^#]*)(?:#\s*(.*))?$", line)
        comment = re.match(r"\s+#\s*(.*)$", line)
        if key:
            indent, name, _, said = key.groups()
            section = name if not indent else section
            current = name if not indent else f"{section}.{name}"
            found[current] = f"{above} {said or ''}".strip()
            above = ""
        elif comment and current and line.startswith(" " * 20):
            found[current] = f"{found[current]} {comment.group(1)}".strip()
        elif comment:
            above = f"{above} {comment.group(1)}".strip()
    return found


def _section(name: str, field: Schema, schema: Schema, words: Mapping[str, str]) -> Iterator[str]:
    model = _model(field, schema)
    yield f"## {name}\n"
    if words.get(name):
        yield f"{_sentence(words[name])}\n"
    if model is None:
        yield f"{_kind(field, schema)}; default `{_shown(field.get('default'))}`\n"
        return
    many = field.get("type") == "array"
    if many:
        yield "A list; each entry has these keys.\n"
    yield from _table(name, model, schema, words)
    for key, inner in model["properties"].items():
        nested = _model(inner, schema)
        if nested is not None:
            yield f"### {name}.{key}\n"
            yield f"{_sentence(nested.get('description', ''))}\n"
            yield from _table(f"{name}.{key}", nested, schema, words)


def _table(name: str, model: Schema, schema: Schema, words: Mapping[str, str]) -> Iterator[str]:
    required = model.get("required", ())
    yield "| key | allowed | default | |\n|---|---|---|---|"
    for key, field in model["properties"].items():
        default = "must be given" if key in required else f"`{_shown(field.get('default'))}`"
        said = words.get(f"{name}.{key}", "").replace("|", "\\|")
        yield f"| `{key}` | {_kind(field, schema)} | {default} | {said} |"
    yield ""


def _model(field: Schema, schema: Schema) -> Schema | None:
    """The section that a field holds, alone, in a list, or as one that may be absent."""
    for part in (field, field.get("items", {}), *field.get("anyOf", ())):
        reference_ = part.get("$ref", "")
        found: Schema = schema["$defs"].get(reference_.rpartition("/")[2], {})
        if "properties" in found:
            return found
    return None


def _kind(field: Schema, schema: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_kind(part, schema) for part in field["anyOf"]))
    if "$ref" in field:
        return _kind(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("type", "any")
    if kind == "array":
        items = field.get("items")
        return f"list of {_kind(items, schema)}" if items else "list"
    names = {
        "string": "text",
        "integer": "whole number",
        "null": "`null`",
        "boolean": "`true`, `false`",
        "object": "mapping",
    }
    limits = [
        f"{words} {field[key]:.10g}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if key in field
    ]
    return " ".join([names.get(kind, str(kind)), *limits])


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict) and len(str(value)) > 80:
        return "see config.yaml"
    return str(value)


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line[:1].upper() + line[1:] + ("" if line.endswith((".", "!", "?")) else ".") if line else ""


def main() -> None:
    """Print the page."""
    print(reference(shipped("config.yaml").read_text(encoding="utf-8")), end="")


if __name__ == "__main__":
    main()
