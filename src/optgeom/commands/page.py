"""The command line as a page: docs/command-line.md is what `command_line_page` returns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

import click

_INTRODUCTION = """\
# Command line

Commands are grouped by what they are for: *make* traces, *look* at them, *ask* them something,
*keep* them. Exit codes are 0: fine, 1: something was found, 2: wrong use; where one means more, its
command says so. `--json`, where there is one, is for programs. Most commands take a trace, or a
folder of traces, or a URI of either (`s3://bucket/runs`)."""

_END = """\
---

This page is generated from the commands themselves (`make pages`): change their help, not the
page."""


def command_line_page(
    program: click.Group, sections: Mapping[str, tuple[click.Command, ...]]
) -> str:
    """The page, in Markdown, in the order of `optgeom --help`.

    Args:
        program: the group that all commands belong to.
        sections: from the title of a section to its commands.

    Returns:
        Text of docs/command-line.md, with a final newline.
    """
    root = click.Context(program, info_name="optgeom")
    parts = [_INTRODUCTION, *_options(root)]
    for title, commands in sections.items():
        parts.append(f"## {title}")
        for command in commands:
            parts.extend(_command(command, root))
    return "\n\n".join([*parts, _END]) + "\n"


def _command(command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=command.name, parent=parent)
    yield f"### `{context.command_path}`"
    if not isinstance(command, click.Group):
        pieces = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        yield f"```text\n{pieces}\n```"
    yield _words(command.help or "")
    yield from _options(context)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _command(inner, context)


def _options(context: click.Context) -> Iterator[str]:
    shown = [one for one in context.command.get_params(context) if "--help" not in one.opts]
    records = (one.get_help_record(context) for one in shown if isinstance(one, click.Option))
    rows = [record for record in records if record]
    if rows:
        lines = [f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in rows]
        yield "\n".join(["| option | |", "|---|---|", *lines])


def _words(text: str) -> str:
    """Help as Markdown: paragraphs as they are, and what is not to be wrapped as it stands."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):  # click's mark
            paragraphs.append(f"```text\n{inspect.cleandoc(paragraph[2:])}\n```")
        else:
            paragraphs.append(re.sub(r"docs/([\w-]+)\.md", r"[\1](\1.md)", paragraph))
    return "\n\n".join(paragraphs)


def _cell(text: str) -> str:
    """One cell of a table; defaults in brackets are no links."""
    return " ".join(text.split()).replace("|", "\\|").replace("[", "\\[")
