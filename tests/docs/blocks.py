"""Fenced blocks and commands of Markdown pages, with what is said of those that are not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"<!-- not run: (.+) -->")
_FENCE = re.compile(r"^(```+)(\w*)$")
_PROGRAM = re.compile(r"^(?:\w+=\S+ )*(?:\.venv/bin/)?optgeom (?=[a-z-])")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        page: relative to the checkout.
        line: of its first line of code, from 1.
        language: as after the fence, or empty.
        code: what stands in it.
        why_not: the reason in the comment above it, where there is one: it is not run.
    """

    page: str
    line: int
    language: str
    code: str
    why_not: str | None


def pages() -> list[str]:
    """README and all pages of the documentation, relative to the checkout."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path.relative_to(ROOT).as_posix() for path in found]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    number, above = 0, ""
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence:
            end = lines.index(fence[1], number + 1)
            mark = MARK.fullmatch(above)
            code = "\n".join(lines[number + 1 : end]) + "\n"
            found.append(Block(page, number + 2, fence[2], code, mark[1] if mark else None))
            number = end
        above = lines[number]
        number += 1
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The words of every ``optgeom`` command in lines of a shell, without what explains them.

    >>> list(commands("optgeom trace verify PATH --repair    and sets damage aside"))
    [['trace', 'verify', 'PATH', '--repair']]
    """
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        command = line.strip()
        if found := _PROGRAM.match(command):
            words = re.split(r"\s{2,}", command[found.end() :])[0]
            yield shlex.split(words, comments=True)


def lines_of_shell(page: str) -> Iterator[str]:
    """What may be typed: blocks without a language, indented lines, and what is in backticks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in blocks(page):
        if block.language in ("", "sh", "bash"):
            yield block.code
    outside = re.sub(r"(?ms)^```.*?^```$", "", text)
    yield "\n".join(re.findall(r"(?m)^    (\S.*)$", outside))
    for inline in re.findall(r"(?<!`)`([^`]+)`(?!`)", outside):
        yield " ".join(inline.split())


def shell(page: str) -> Iterator[list[str]]:
    """The words of every ``optgeom`` command of a page."""
    for text in lines_of_shell(page):
        yield from commands(text)
