"""Bringing a local trace, or what an object store had not taken of one, to the store by hand."""

from __future__ import annotations

import os
from dataclasses import dataclass

from optgeom.traces.errors import NotATrace, TraceError
from optgeom.traces.files.address import below
from optgeom.traces.files.lock import holder
from optgeom.traces.files.place import Place, find
from optgeom.traces.writing.runfile import find_run, has_run, local_folder
from optgeom.traces.writing.spool import Spool, read_note, spools_in
from optgeom.traces.writing.uploading import begin_upload


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload did.

    Attributes:
        uri: where to, as it may be shown.
        files: objects written, run.json among them, and `bytes` in the others.
        bytes: see `files`.
        same: files that were there already, run.json among them.
        removed: the folder was a spool, and has gone: the store has everything.
    """

    uri: str
    files: int
    bytes: int
    same: int
    removed: bool


def upload(source: str | os.PathLike[str], uri: str) -> Uploaded:
    """Bring a local trace, or a spool, to an object store; what is there already is not sent again.

    After any failure it may be called again, and goes on. A trace that is still written may be
    uploaded as often as one likes. Readers of the store see each record once at every moment, and
    the run as closed only once all of it is there. A spool is removed at the end.

    Args:
        source: the folder of a trace, or of a spool that an earlier process has left.
        uri: of the run's own folder in the store; any that pyarrow.fs opens.

    Raises:
        NotATrace: `source` is neither, or the URI is none that pyarrow.fs opens.
        TraceError: the URI is a bucket's own; the store does not answer, or refuses; it holds
            another run there; or a live process is uploading the spool.
    """
    folder = local_folder(source)
    note = read_note(folder)
    if note is None and not has_run(folder):
        inside = spools_in(folder)
        names = f"; it holds the spools {', '.join(one.name for one in inside)}" if inside else ""
        raise NotATrace(
            f"{folder} is neither a trace nor a spool{names}: pass the folder of one run"
        )
    place = _store(uri, folder.name)
    if note is None:
        before = find_run(place)
        done = begin_upload(folder, place, None)
        done.turn()
        same = done.same + (before is not None and find_run(place) == before)
        return Uploaded(place.shown, done.files, done.bytes, same, removed=False)
    spool = Spool.take(folder)
    if spool is None:
        raise TraceError(
            f"{folder} is being uploaded by {holder(folder)}: wait until that has ended"
        )
    try:
        done = begin_upload(folder, place, spool.note)
        left = done.turn()
    except BaseException:
        spool.release()
        raise
    if left:
        spool.release()
    else:
        spool.remove()
    return Uploaded(place.shown, done.files, done.bytes, done.same, removed=not left)


def _store(uri: str, name: str) -> Place:
    """Where to; no bucket is asked yet."""
    place = find(uri)
    if place.is_local:
        raise TraceError(
            f"{place.shown} is a local folder: copy the trace there (cp -r), or pass the URI of an "
            "object store"
        )
    if "/" not in place.root.strip("/"):
        raise TraceError(
            f"{place.shown} is a bucket, whose own files a run's would be among: pass a folder in "
            f"it, such as {below(place.shown, name)}"
        )
    return place
