"""The group of commands on traces as files."""

from __future__ import annotations

import click

from optgeom.commands.keep.compact import compact
from optgeom.commands.keep.export import export
from optgeom.commands.keep.info import info
from optgeom.commands.keep.upload import upload
from optgeom.commands.keep.verify import verify

trace = click.Group(
    "trace",
    commands=[info, verify, compact, export, upload],
    help="Describe, verify, compact, export and upload traces.",
)
