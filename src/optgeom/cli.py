"""The command line: make, look, ask, keep.

Commands import what they need when they run, so that ``optgeom --help`` costs nothing. Exit codes:
0 fine, 1 something was found, 2 wrong use.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

import click
from rich.console import Console
from rich.logging import RichHandler

import optgeom
from optgeom.commands import look, make
from optgeom.commands.ask.analyze import analyze
from optgeom.commands.ask.audit import audit
from optgeom.commands.ask.compare import compare
from optgeom.commands.ask.diagnose import diagnose
from optgeom.commands.ask.plan import plan
from optgeom.commands.ask.whatif import whatif
from optgeom.commands.keep.trace import trace
from optgeom.traces.errors import OptgeomError
from optgeom.traces.printable import printable

SECTIONS: Mapping[str, tuple[click.Command, ...]] = {
    "make": (make.demo, make.train),
    "look": (look.dashboard, look.report),
    "ask": (audit, compare, diagnose, whatif, analyze, plan),
    "keep": (trace,),
}


class Sections(click.Group):
    """A group whose help lists its commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per purpose."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                rows = [(one.name or "", one.get_short_help_str(100)) for one in commands]
                formatter.write_dl(rows)


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(optgeom.__version__, prog_name="optgeom")
@click.option("-v", "--verbose", is_flag=True, help="Show debug messages.")
def cli(verbose: bool) -> None:
    """See the geometry of what an optimizer does to a network."""
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("optgeom").setLevel(level)
    logging.getLogger("optgeom.optim").setLevel(logging.DEBUG if verbose else logging.WARNING)


for _command in (command for commands in SECTIONS.values() for command in commands):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; an error of ours is one line and exit code 2."""
    try:
        cli(standalone_mode=True)
    except OptgeomError as error:
        if os.environ.get("RANK", "0") == "0":  # under torchrun all ranks refuse the same thing
            click.echo(printable(f"optgeom: {error}"), err=True)
        sys.exit(2)
