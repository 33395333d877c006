"""What the documents for people name: commands, files, links, names of the program."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL_LANGUAGES = {"", "sh"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language as written, its text."""

    language: str
    text: str


def documents() -> list[Path]:
    """Every page that people write for people; reports of evaluations are written by the program."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/models/*.md")]
    return sorted(pages)


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def inline_code(text: str) -> list[str]:
    """What stands in backticks outside of fenced blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def headings(text: str) -> set[str]:
    """The anchors of a page, as the site and GitHub make them of headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every command of a page: lines of its shell blocks, and code that begins with a program."""
    lines = [
        code for code in inline_code(text) if code.split()[0] in ("lungnode", "make", "python", "pytest")
    ]
    for block in blocks(text):
        if block.language in SHELL_LANGUAGES:
            lines += block.text.replace("\\\n", " ").splitlines()
    for line in lines:
        for part in re.split(r"&&|\|", line.strip().removeprefix("$ ")):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # a quotation mark of a sentence: what a command printed
                continue
            if words:
                yield words


def after(words: list[str], program: str) -> list[str] | None:
    """What follows `program`, wherever it lies and whoever runs it; None where the command is another one."""
    for place, word in enumerate(words):
        if Path(word).name == program:
            return words[place + 1 :]
        if word not in ("sudo", "nice") and "=" not in word:
            return None
    return None
