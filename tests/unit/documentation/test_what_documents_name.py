"""Every command, option, configuration key, file, name and link of the documents is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from documents import ROOT, after, blocks, command_lines, documents, headings, inline_code

from node.cli import app
from node.configuration import Configuration

FLOORS = ("networks", "store", "scp", "engine", "reporting", "training", "node")
FILE = re.compile(r"[\w@*./-]+\.(?:py|yaml|yml|md|json|service|target|lock|sh)(?!\w)")
DOTTED = re.compile(rf"(?<![\w@.-])(?:{'|'.join(FLOORS)})(?:\.\w+)+")
OF_THE_READER = {"emphysema.yaml", "BACKEND.yaml"}
"""Files that a page has its reader write, or that stand for several."""
PEOPLE_CALL_THEM = {
    "destinations": [
        {"name": name, "ae_title": "PACS", "host": "localhost", "port": 104} for name in ("pacs", "emergency")
    ],
    "models": ["models/jcs-compact", "models/m3lung-compact", "models/emphysema"],
}
"""What the examples of rules name."""

every_document = pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))


@every_document
def test_commands_and_their_options(page: Path) -> None:
    wrong = []
    for words in command_lines(page.read_text()):
        arguments = after(words, "lungnode")
        if arguments is not None and arguments[:1] != ["..."]:
            wrong += [f"{' '.join(words)}: {said}" for said in misused(command_tree(), arguments)]
    assert not wrong


@every_document
def test_targets_of_make(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = [after(words, "make") for words in command_lines(page.read_text())]
    named = {words[0] for words in called if words and "=" not in words[0]}
    assert named - {"..."} <= targets


@every_document
def test_files(page: Path) -> None:
    text = page.read_text()
    words = " ".join(inline_code(text)) + " " + " ".join(" ".join(line) for line in command_lines(text))
    named = {name for name in FILE.findall(words) if "*" not in name}
    assert sorted(name for name in named if not is_file(name)) == []


@every_document
def test_names_of_the_program(page: Path) -> None:
    text = page.read_text()
    drawings = [block.text for block in blocks(text) if block.language == ""]
    named = {name for code in [*inline_code(text), *drawings] for name in DOTTED.findall(code)}
    assert sorted(name for name in named if not is_name(name) and not is_file(name)) == []


@every_document
def test_keys_of_the_configuration(page: Path) -> None:
    sections = "|".join(Configuration.model_fields)
    key = re.compile(rf"((?:{sections})(?:\.[a-z_]+)+)(?:: .*)?")
    named = {said[1] for code in inline_code(page.read_text()) if (said := key.fullmatch(code))}
    assert sorted(k for k in named if not configured(k) and not is_name(k) and not is_file(k)) == []


@every_document
def test_examples_of_the_configuration(page: Path) -> None:
    for block in blocks(page.read_text()):
        content = yaml.safe_load(block.text) if block.language == "yaml" else None
        if isinstance(content, dict) and set(content) <= set(Configuration.model_fields):
            Configuration(**{**PEOPLE_CALL_THEM, **content})


@every_document
def test_links(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    assert [target for target in targets if not leads_somewhere(page, target)] == []


@cache
def command_tree() -> Any:
    """The commands of `lungnode`, those of training in their place."""
    from training.cli import app as training

    whole, mounted = typer.main.get_command(app), typer.main.get_command(training)
    whole.commands.update(mounted.commands)  # type: ignore[attr-defined]
    return whole


def misused(command: Any, words: list[str]) -> list[str]:
    """What of `words` the command does not know: a subcommand or options."""
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {"--help", "-h", "--debug", "--install-completion"}
    if not hasattr(command, "commands"):
        given = [word.split("=")[0] for word in words if word.startswith("--")]
        return [f"no option {option}" for option in given if option not in known]
    if not words or words[0].startswith("-"):
        return [f"no option {word}" for word in words[:1] if word not in known]
    if words[0] not in command.commands:
        return [f"no command {words[0]}"]
    return misused(command.commands[words[0]], words[1:])


def is_file(name: str) -> bool:
    """A file of the repository, by its path or the end of it, or one whose name the program knows."""
    name = re.sub(r"@\w+\.", "@.", name).removeprefix("./")  # an instance of a unit
    here = any(f"/{file}".endswith("/" + name) for file in repository())
    last = Path(name).name
    return here or last in OF_THE_READER or f'{last}"' in sources()


@cache
def repository() -> tuple[str, ...]:
    folders = ("docs", "tests", "packaging", "systemd", "models", "benchmarks", "trt_engines", *FLOORS)
    files = [*ROOT.glob("*"), *(file for folder in folders for file in (ROOT / folder).rglob("*"))]
    return tuple(str(file.relative_to(ROOT)) for file in files)


@cache
def sources() -> str:
    return "".join((ROOT / file).read_text() for file in repository() if is_source(file))


def is_source(file: str) -> bool:
    return file.endswith((".py", ".yaml", ".sh", "postinst", ".service")) and not file.startswith("tests/")


def is_name(dotted: str) -> bool:
    """A package, a module, or what is defined in one; found in the sources, so that nothing heavy is imported."""
    parts = dotted.split(".")
    for depth in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:depth])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.exists():
            text = file.read_text()
            return all(
                re.search(rf"^\s*(?:class |def |from .* import .*|)\b{name}\b", text, re.M)
                for name in parts[depth:]
            )
    return False


def configured(key: str) -> bool:
    """A key of config.yaml, such as `listener.tls.ca`."""
    schema = configuration_schema()
    places = [schema]
    for part in key.split("."):
        places = [
            inner["properties"][part]
            for place in places
            for inner in unfolded(place, schema)
            if part in inner.get("properties", {})
        ]
    return bool(places)


@cache
def configuration_schema() -> dict[str, Any]:
    return Configuration.model_json_schema(by_alias=True)


def unfolded(place: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What may stand at a place of the schema: behind references, alternatives and lists."""
    if "$ref" in place:
        yield from unfolded(schema["$defs"][place["$ref"].rsplit("/", 1)[-1]], schema)
    for inner in place.get("anyOf", []):
        yield from unfolded(inner, schema)
    if "items" in place:
        yield from unfolded(place["items"], schema)
    yield place


def leads_somewhere(page: Path, target: str) -> bool:
    """A link to a file, a folder or a heading; the configuration's reference is made with the site."""
    path, _, anchor = target.partition("#")
    file = page if not path else (page.parent / path).resolve()
    if path == "configuration.md":
        return True
    return file.exists() and (not anchor or anchor in headings(file.read_text()))


def test_commands_that_the_program_itself_names() -> None:
    """Hints in messages, in the configuration's comments, and the examples below each `--help`."""
    wrong = {}
    for file in filter(is_source, repository()):
        for line in re.findall(r"[`$] ?lungnode ((?:[\w=@:./-]+ ?)+)", (ROOT / file).read_text()):
            if said := misused(command_tree(), line.split()):
                wrong[f"{file}: {line}"] = said
    assert wrong == {}


def test_what_is_misspelt_is_noticed() -> None:
    assert misused(command_tree(), ["serve", "--onyl", "worker"]) == ["no option --onyl"]
    assert misused(command_tree(), ["studies", "wy", "1.2"]) == ["no command wy"]
    assert not is_name("engine.screening.scren")
    assert not configured("listener.prot")
    assert not is_file("engine/screning.py")
