"""The group of commands on traces as files."""

from __future__ import annotations

import click

from optgeom.commands.keep.info import info
from optgeom.commands.keep.verify import verify

trace = click.Group(
    "trace",
    commands=[info, verify],
    help="Describe and verify traces.",
)
