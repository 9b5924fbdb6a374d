"""What an optimizer really does, before anything is trained with it."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console

import optgeom
from optgeom.terminal import audit_tables

USAGE = "write --NAME VALUE for every setting, such as --lr 0.02 --nesterov true"


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    short_help="Find out what an optimizer really does, before training with it.",
)
@click.argument("optimizer", metavar="MODULE:CLASS")
@click.argument("settings", nargs=-1, type=click.UNPROCESSED, metavar="[--SETTING VALUE]...")
@click.option(
    "--group",
    "marks",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give the parameters in a group with this mark, such as use_muon=true; repeat it.",
)
@click.option(
    "--expect",
    "wanted",
    multiple=True,
    metavar="NAME=VALUE",
    help="Exit with 1 unless this is found, such as neuron_axis=rows; repeat it.",
)
@click.option("--ranks/--no-ranks", default=True, help="Run two ranks too.", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def audit(
    optimizer: str,
    settings: Sequence[str],
    marks: Sequence[str],
    wanted: Sequence[str],
    ranks: bool,
    as_json: bool,
) -> None:
    """Find out what an optimizer really does, before you train with it.

    MODULE:CLASS is importable from here, such as torch.optim:Muon, or a function that takes
    parameters. Settings follow as options: --lr 0.02 --weight_decay 0.1. It is fed gradients whose
    singular values, rows and sequences are known (docs/audit.md).

    Exit code 1: something was found that should be known before training, or is not as expected.
    """
    given = _settings(settings)
    group, expected = _pairs(marks, "--group"), _pairs(wanted, "--expect")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for what a program may read
            made = _callable(optimizer)
            _check(optimizer, made, given)

            def factory(parameters: list[Any]) -> Any:
                return made([{"params": parameters, **group}] if group else parameters, **given)

            report = optgeom.audit(factory, ranks=ranks)
    except KeyboardInterrupt:
        click.echo("optgeom: stopped", err=True)
        sys.exit(130)
    failed = ""
    if expected:
        from optgeom.hooks.auditing.report import ExpectationFailed

        try:
            report.expect(**expected)
        except ExpectationFailed as error:
            failed = str(error)
    if as_json:
        click.echo(json.dumps(report.to_json(), allow_nan=False))
    else:
        console = Console()
        for part in audit_tables(report):
            console.print(part)
    if failed:
        click.echo(f"optgeom: {failed}", err=True)
    sys.exit(0 if report.is_clean and not failed else 1)


def _callable(address: str) -> Callable[..., Any]:
    """What MODULE:CLASS names; modules of the working folder too."""
    module, _, name = address.partition(":")
    if not module or not name:
        raise click.UsageError(f"MODULE:CLASS is such as torch.optim:Muon, got {address!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        raise click.UsageError(
            f"{module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=3)
            raise click.UsageError(
                f"{module} has no {part!r}" + (f": try {' or '.join(near)}" if near else "")
            )
        found = getattr(found, part)
    if not callable(found):
        raise click.UsageError(f"{address} is a {type(found).__name__}, no class or function")
    made: Callable[..., Any] = found
    return made


def _check(address: str, made: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse a setting that the class does not take, with the nearest that it does."""
    try:
        parameters = inspect.signature(made).parameters
    except ValueError:  # some built-in classes have none
        return
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for name in given:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=2) or list(parameters)[1:4]
            raise click.UsageError(f"{address} takes no {name!r}: try {' or '.join(near)}")


def _settings(tokens: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments of --NAME VALUE and --NAME=VALUE; a --NAME alone is True."""
    found: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise click.UsageError(f"{token!r} belongs to no setting: {USAGE}")
        name, equals, value = token[2:].partition("=")
        if not equals:
            follows = rest and not rest[0].startswith("--")
            value = rest.pop(0) if follows else "True"
        found[name.replace("-", "_")] = _value(value)
    return found


def _pairs(texts: Sequence[str], option: str) -> dict[str, Any]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{option} takes NAME=VALUE, got {text!r}")
        found[name.replace("-", "_")] = _value(value)
    return found


def _value(text: str) -> Any:
    """A Python literal, true, false or none in any case; else the text itself."""
    plain = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
