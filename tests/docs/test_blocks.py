"""The code of README and docs runs as it stands; commands are those of the command line."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from optgeom.cli import cli
from optgeom.trainer import load_config
from tests.docs import world
from tests.docs.blocks import ROOT, Block, blocks, commands, lines_of_shell, pages, shell

ELSEWHERE = {
    "docs/frameworks.md": "tests/frameworks",
    "docs/layers.md": "tests/hooks/test_describe.py",
    "docs/loops.md": "tests/hooks/test_docs.py",
    "docs/traces.md": "tests/traces/test_documented_readers.py",
}
"""Pages whose Python is run by other tests, with a world of their own."""
PRINTED = {"text", "toml", "sql", "nginx"}
"""Blocks that are no program; the first program's output, for the most part."""
NOT_RUN = Counter(
    {
        "docs/frameworks.md": 1,
        "docs/fsdp2.md": 1,
        "docs/start.md": 2,
        "docs/trainer.md": 1,
    }
)
"""How many blocks of a page say that they are not run, and why: nothing else is left out."""
RUN_WHOLE = "docs/start.md"
"""The page whose commands are run too."""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def of_language(page: str, *languages: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in languages]


def runs_here(page: str) -> bool:
    return page not in ELSEWHERE and any(not b.why_not for b in of_language(page, "python"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "runs"
    world.make_runs(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in pages() if runs_here(page)])
def test_python_runs_in_order(
    page: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    if page != RUN_WHOLE:
        shutil.copytree(runs, tmp_path / "runs")
        names = world.names()
    for block in blocks(page):
        if block.why_not is not None:
            continue
        if block.language == "python":
            execute(block, names)
        elif page == RUN_WHOLE and not block.language:
            for command in commands(block.code):
                result = CliRunner().invoke(cli, command)
                assert result.exit_code == 0, result.output


def execute(block: Block, names: dict[str, Any]) -> None:
    lines = "\n" * (block.line - 1) + block.code  # so that a traceback has the page's lines
    exec(compile(lines, ROOT / block.page, "exec"), names)


@pytest.mark.slow
def test_the_sizes_of_the_page_on_clocks_are_those_of_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page, names = "docs/clocks.md", world.names()
    execute(of_language(page, "python")[0], names)
    rows = re.findall(r"(?m)^\| (?:none: the defaults|`(.+=.+)`) \| ([\d.]+) \|", text_of(page))
    assert len(rows) == 8
    for settings, megabytes in rows:
        assert eval(f"{megabytes} == round(megabytes({settings}), 1)", names), settings


def test_what_is_not_run_says_why_and_is_counted() -> None:
    marked = Counter(block.page for page in pages() for block in blocks(page) if block.why_not)
    assert marked == NOT_RUN


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language_that_is_known(page: str) -> None:
    assert {block.language for block in blocks(page)} <= {"", "python", "sh", "bash", *PRINTED}
    assert text_of(page).count("<!-- not run") == sum(
        block.why_not is not None for block in blocks(page)
    )


@pytest.mark.parametrize("page", ELSEWHERE)
def test_what_runs_elsewhere_is_named_there(page: str) -> None:
    place = ROOT / ELSEWHERE[page]
    texts = [place] if place.is_file() else [*place.rglob("*.py")]
    assert any(Path(page).name in text.read_text(encoding="utf-8") for text in texts)


@pytest.mark.parametrize("page", pages())
def test_commands_exist(page: str) -> None:
    for words in shell(page):
        check(words)


@pytest.mark.parametrize("page", pages())
def test_other_programs_exist(page: str) -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    for text in lines_of_shell(page):
        for target in re.findall(r"(?m)^make ([a-z]+)", text):
            assert target in targets, f"make {target}"
        for file in re.findall(r"(?m)^python (\S+\.py)", text):
            assert (ROOT / file).exists() or "/" not in file, f"python {file}"
        for test in re.findall(r"(?m)^pytest (\S+)", text):
            assert (ROOT / test).exists(), f"pytest {test}"


def check(words: list[str]) -> None:
    """Parse a command: its name, its options, and not more arguments than it takes."""
    command: click.Command = cli
    context = click.Context(cli, info_name="optgeom")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"optgeom {' '.join(words)}: there is no {rest[0]!r}"
        settings = inner.context_settings
        context = click.Context(inner, info_name=rest[0], parent=context, **settings)
        command = inner
        rest = rest[1:]
    try:
        given, left, _ = command.make_parser(context).parse_args(rest)
    except click.UsageError as error:
        raise AssertionError(f"optgeom {' '.join(words)}: {error.format_message()}") from error
    assert not left, f"optgeom {' '.join(words)}: {left} is too much"
    for option in command.params:
        value = given.get(option.name or "")
        if isinstance(option, click.Option) and isinstance(option.type, click.Choice) and value:
            assert value in option.type.choices, f"optgeom {' '.join(words)}"


def test_a_renamed_option_would_be_found() -> None:
    check(["trace", "verify", "PATH", "--repair"])
    for wrong in (["trace", "verify", "PATH", "--mend"], ["trace", "look"], ["demo", "a", "b"]):
        with pytest.raises(AssertionError):
            check(wrong)


def test_the_settings_of_the_trainers_page_are_settings(tmp_path: Path) -> None:
    (block,) = of_language("docs/trainer.md", "toml")
    (tmp_path / "my_run.toml").write_text(block.code)
    config = load_config(tmp_path / "my_run.toml", overrides={"model.width": 256})
    assert config.optimizer.name == "normuon"
    assert config.accumulate == 2
