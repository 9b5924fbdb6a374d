"""A local trace, or what a store had not taken of one, into an object store."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from optgeom.traces.printable import size_in_words


@click.command()
@click.argument("path", metavar="RUN")
@click.argument("uri", metavar="URI")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def upload(path: str, uri: str, as_json: bool) -> None:
    """Bring a local trace, or the spool that a run left, to an object store.

    Only what is missing there or differs is sent, so after a failure it goes on where it was. The
    URI is that of the run's own folder, such as s3://bucket/runs/a; keys come from it or from the
    environment. A spool is removed once the store has everything. A trace stays.
    """
    from optgeom.traces.keeping.upload import upload as bring

    done = bring(path, uri)
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    if done.files:
        said = f"{_files(done.files)}, {size_in_words(done.bytes)}, uploaded to {done.uri}"
    else:
        said = f"{done.uri} has everything"
    if done.same:
        said += f"; {_files(done.same)} {'was' if done.same == 1 else 'were'} there already"
    if done.removed:
        said += f"; the spool {path} is removed"
    click.echo(said)


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
