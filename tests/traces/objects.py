"""An S3 server on this machine alone, for as long as a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pyarrow import fs

BUCKET = "bucket"
KEY = "AKIASHOWNTONOBODY"
SECRET = "SecretsOf/Nobody+AtAll="
ENVIRONMENT = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ACCESS_KEY_ID": "environment",
    "AWS_SECRET_ACCESS_KEY": "environment",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
_STOPS_WITHIN = 20.0

Environ = dict[str, Any]


@dataclass
class Objects:
    """The server, and what was asked of it.

    Attributes:
        port: on the loopback interface.
        asked: method and path of every request, oldest first.
        answer: None, or answers a request in the server's place with a status line.
    """

    port: int
    asked: list[tuple[str, str]] = field(default_factory=list)
    answer: Callable[[Environ], str | None] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def filesystem(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.endpoint,
            scheme="http",
            allow_bucket_creation=True,
        )

    def uri(self, path: str = "", *, bucket: str = BUCKET) -> str:
        """Where a path of the bucket is, keys and all."""
        user = f"{KEY}:{quote(SECRET, safe='')}"
        inside = f"/{quote(path)}" if path else ""
        return f"s3://{user}@{bucket}{inside}?endpoint_override={self.endpoint}&scheme=http"

    def upload(self, folder: Path, path: str) -> None:
        """Make the objects below a path those of a local folder."""
        wanted = {
            f"{BUCKET}/{path}/{one.relative_to(folder).as_posix()}": one.read_bytes()
            for one in sorted(folder.rglob("*"))
            if one.is_file()
        }
        selector = fs.FileSelector(f"{BUCKET}/{path}", recursive=True, allow_not_found=True)
        there = {one.path for one in self.filesystem.get_file_info(selector) if one.is_file}
        for name, data in wanted.items():
            self.put(name, data)
        for name in there.difference(wanted):
            self.filesystem.delete_file(name)

    def put(self, name: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(name) as stream:
            stream.write(data)

    def names(self, path: str) -> list[str]:
        """The objects below a path, hidden ones too; markers of folders are none."""
        selector = fs.FileSelector(f"{BUCKET}/{path}", recursive=True, allow_not_found=True)
        return sorted(one.path for one in self.filesystem.get_file_info(selector) if one.is_file)

    @contextmanager
    def counted(self) -> Iterator[list[tuple[str, str]]]:
        """The requests of a block."""
        found: list[tuple[str, str]] = []
        before = len(self.asked)
        yield found
        found += self.asked[before:]

    @contextmanager
    def answering(self, answer: Callable[[Environ], str | None]) -> Iterator[None]:
        """Answer requests in the server's place for the length of a block."""
        self.answer = answer
        try:
            yield
        finally:
            self.answer = None


@contextmanager
def serving() -> Iterator[Objects]:
    """A server with one empty bucket, and an environment in which nothing leaves the machine."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.0"  # no thread waits for the next request of a connection

        def log(self, *_: object) -> None:
            """Nothing: `asked` has it."""

    backend = DomainDispatcherApplication(create_backend_app)

    def app(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        objects.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        status = objects.answer(environ) if objects.answer is not None else None
        if status is None:
            found: Iterable[bytes] = backend(environ, start)
            return found
        start(status, [("Content-Length", "0")])
        return [b""]

    # in this thread: a port that cannot be had is an error here
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    objects = Objects(server.server_port)
    thread = threading.Thread(target=server.serve_forever, name="s3-server", daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ENVIRONMENT.items():
                patch.setenv(name, value)
            objects.filesystem.create_dir(BUCKET)
            yield objects
    finally:
        server.shutdown()
        thread.join(_STOPS_WITHIN)
        server.server_close()
        assert not thread.is_alive()
