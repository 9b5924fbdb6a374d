"""How it is served: where, with what headers, and what it makes of requests that are none."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from optgeom.dashboard import server
from optgeom.dashboard.access import DashboardError
from optgeom.dashboard.server import address_of, make_server, serve
from optgeom.traces.errors import OptgeomError
from tests.dashboard.asking import CALLBACKS, TOKEN, ask, call, calls, served


class TestHeaders:
    def test_it_answers_on_loopback_with_a_strict_policy(self, address: str) -> None:
        got = ask(address)
        assert got.status == 200
        parts = dict(
            one.split(" ", 1) for one in got.headers["content-security-policy"].split("; ")
        )
        assert parts["default-src"] == parts["connect-src"] == "'self'"
        assert parts["frame-ancestors"] == parts["object-src"] == parts["base-uri"] == "'none'"
        assert parts["form-action"] == "'none'"
        assert re.fullmatch(r"'self'( 'sha256-[A-Za-z0-9+/=]+')+", parts["script-src"])
        assert "unsafe-eval" not in got.headers["content-security-policy"]
        assert "http" not in got.headers["content-security-policy"]

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/", 200), ("/_dash-layout", 200), ("/assets/style.css", 200), ("/assets/none.css", 404)],
    )
    @pytest.mark.parametrize("refused", [False, True])
    def test_every_answer_has_them(
        self, address: str, path: str, status: int, refused: bool
    ) -> None:
        got = ask(address, path, host="evil.example") if refused else ask(address, path)
        assert got.status == (421 if refused else status)
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cross-origin-resource-policy"] == "same-origin"
        assert got.headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=(), " in got.headers["permissions-policy"]
        assert got.headers["server"] == "optgeom"
        assert "set-cookie" not in got.headers

    def test_files_of_one_version_are_kept_and_nothing_else(self, address: str) -> None:
        page = ask(address).text
        named = re.findall(r'(?:src|href)="(/[^"]+)"', page)
        assert len(named) > 5
        for path in named:
            kept = ask(address, path).headers["cache-control"]
            assert kept == "private, max-age=31536000, immutable", path
        assert ask(address, "/assets/style.css").headers["cache-control"] == "private, no-cache"
        for path in ("/", "/runs", "/_dash-layout", "/_dash-dependencies", "/assets/none?m=1"):
            assert ask(address, path).headers["cache-control"] == "no-store"

    def test_a_file_that_is_not_there_is_not_there(self, address: str) -> None:
        for path in ("none/x.js", "dash/x.js", "dash/../../dash.py", "dash/%2e%2e/dash.py"):
            assert ask(address, f"/_dash-component-suites/{path}").status == 404

    def test_what_is_too_large_is_refused(self, address: str) -> None:
        large = ask(address, CALLBACKS, "POST", content_length="1000001")
        assert large.status == 413
        assert large.headers["x-content-type-options"] == "nosniff"
        assert large.headers["cache-control"] == "no-store"
        assert ask(address, x="x" * 70_000).status == 431


class TestChoosing:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "gpu-1", "0"])
    def test_a_network_needs_a_token(self, demo: Path, host: str) -> None:
        with pytest.raises(DashboardError, match=r"loopback.*ssh -L.*--token-file") as refused:
            make_server(demo, host=host)
        assert repr(host) in str(refused.value)

    def test_a_short_token_is_refused_and_not_shown(self, demo: Path) -> None:
        with pytest.raises(DashboardError, match=r"16 characters; the token has 7") as refused:
            make_server(demo, token="hunter2")
        assert "hunter2" not in str(refused.value)
        with pytest.raises(DashboardError, match="printable ASCII"):
            make_server(demo, token="sixteen and more characters")

    def test_a_host_that_is_no_name(self, demo: Path) -> None:
        with pytest.raises(DashboardError, match="empty"):
            make_server(demo, host="", token=TOKEN)
        with pytest.raises(DashboardError, match="cannot listen on 192\\.0\\.2\\.1"):
            make_server(demo, host="192.0.2.1", token=TOKEN)  # an address of nobody (RFC 5737)

    def test_a_port_that_is_none(self, demo: Path) -> None:
        with pytest.raises(DashboardError, match="65535"):
            make_server(demo, port=70000)

    def test_a_taken_port_is_named(self, demo: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(DashboardError, match=f"port {port} is taken"):
                make_server(demo, port=port)

    def test_addresses(self) -> None:
        assert address_of("127.0.0.1", 80, "a&b") == "http://127.0.0.1:80/?token=a%26b"
        assert address_of("0.0.0.0", 80) == f"http://{socket.gethostname()}:80"


class TestServing:
    def test_a_folder_that_is_no_trace_fails_before_listening(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("")
        with pytest.raises(OptgeomError, match="no trace"):
            serve(tmp_path, port=0, on_ready=lambda _: pytest.fail("it was served"))

    @pytest.mark.parametrize("token", [None, TOKEN])
    def test_serve_says_where(
        self,
        demo: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        token: str | None,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        made = make_server(demo, port=0, token=token)
        said: list[str] = []
        monkeypatch.setattr("optgeom.dashboard.server.make_server", lambda *_, **__: made)
        monkeypatch.setattr(made, "run", lambda: None)
        serve(demo, port=0, token=token, on_ready=said.append)
        assert said == [address_of("127.0.0.1", made.effective_port, token)]
        assert TOKEN not in caplog.text

    def test_the_command_prints_one_address_that_opens(self, demo: Path) -> None:
        command = [sys.executable, "-m", "optgeom", "-v", "dashboard", str(demo)]
        started = subprocess.Popen(
            [*command, "--port", "0", "--token", "auto"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "40"},
            # a shell's background job has it ignored, and what it starts inherits that
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert started.stdout is not None
            line = started.stdout.readline()
            found = re.fullmatch(r"Dashboard: (http://127\.0\.0\.1:\d+)(/\?token=(\S+)) .*\n", line)
            assert found, line
            assert ask(found[1]).status == 403
            assert ask(found[1], found[2]).status == 303
            assert ask(found[1], "/?token=wrong").status == 403
        finally:
            started.send_signal(signal.SIGINT)
            out, err = started.communicate(timeout=30)
        assert found[3] not in out + err
        assert "serving" in err

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (("--host", "0.0.0.0"), "ssh -L"),
            (("--token", "hunter2hunter2hunter2"), "ps"),
            (("--token-file", "nowhere"), "nowhere"),
            (("--host", "10.0.0.7", "--port", "x"), "--port"),
        ],
    )
    def test_wrong_use_is_one_line_and_code_2(
        self, demo: Path, given: tuple[str, ...], said: str
    ) -> None:
        command = [sys.executable, "-m", "optgeom", "dashboard", str(demo), *given]
        bare = {name: value for name, value in os.environ.items() if name != "OPTGEOM_TOKEN"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=bare)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert "hunter2" not in done.stderr + done.stdout


# -- calls of callbacks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'"x"', 400),
        (b"\xff\xfe", 400),
        (b"9" * 5000, 400),
        (b"[" * 400_000, 400),
        (b'{"a":' * 150_000, 400),
        (b'{"output":' + b"[" * 500 + b"]" * 500 + b"}", 400),
        (b'{"output": []}', 400),
        (b'{"output": "nothing.here"}', 400),
        (b'{"output": {"a": 1}, "inputs": 3}', 400),
        (b"x" * 1_000_001, 413),
    ],
)
def test_what_is_no_call_is_refused(address: str, body: bytes, status: int) -> None:
    got = call(address, body)
    assert got.status == status
    assert "Traceback" not in got.text
    assert ask(address).status == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"inputs": []},
        {"inputs": {"a": 1}},
        {"inputs": ["x", None, 3]},
        {"inputs": [{"id": "nobody", "property": "value"}]},
        {"state": [{"id": "view", "property": "data"}] * 40},
        {"outputs": None},
        {"outputs": [[[]]]},
        {"outputs": [{"id": "problem", "property": "children"}]},
        {"changedPropIds": [{}]},
        {"changedPropIds": 3},
        {"output": "problem.children"},
    ],
)
def test_a_call_of_another_shape_is_refused(address: str, wrong: dict[str, Any]) -> None:
    good = next(calls(address, "muon"))
    assert call(address, good).status in (200, 204)
    got = call(address, good | wrong)
    assert got.status == 400
    assert got.text.count("\n") == 1
    assert call(address, good, content_type="text/plain").status == 415


@pytest.mark.parametrize("value", [None, -1, 1e300, [], {"q": 1}, [[[]]], True], ids=str)
def test_a_call_with_other_values_is_answered(address: str, value: Any) -> None:
    for one in calls(address, value):
        got = call(address, one)
        assert got.status in (200, 204), one
        assert "Traceback" not in got.text


# -- raw sockets -------------------------------------------------------------------------------

HALVES = (
    b"",
    b"GET / HT",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"POST /_dash-update-component HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000\r\n\r\n{",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
)


def test_half_a_request_hinders_nobody(address: str) -> None:
    where = urlsplit(address)
    with contextlib.ExitStack() as stack:
        for half in HALVES * 3:
            raw = stack.enter_context(socket.create_connection((where.hostname, where.port)))
            raw.sendall(half)
        assert ask(address).status == 200
    assert ask(address).status == 200


@pytest.mark.parametrize("drip", [b"", b"x"], ids=["silent", "slow"])
@pytest.mark.parametrize("half", [HALVES[2], HALVES[3]], ids=["headers", "body"])
def test_a_slow_client_is_hung_up_on(
    demo: Path, monkeypatch: pytest.MonkeyPatch, half: bytes, drip: bytes
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 1)
    with served(demo) as at:
        where = urlsplit(at)
        with socket.create_connection((where.hostname, where.port), timeout=0.2) as raw:
            raw.sendall(half)
            for _ in range(200):  # at most 40 s
                try:
                    if raw.recv(1) == b"":
                        break
                except TimeoutError:
                    with contextlib.suppress(ConnectionError):
                        raw.sendall(drip)
                except ConnectionError:
                    break
            else:
                pytest.fail("the connection stayed open")
        assert ask(at).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /assets/../server.py HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /assets/%2e%2e/server.py HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_no_page(address: str, sent: bytes) -> None:
    where = urlsplit(address)
    got = b""
    with (
        contextlib.suppress(TimeoutError, ConnectionError),
        socket.create_connection((where.hostname, where.port), timeout=2) as raw,
    ):
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        while part := raw.recv(65_536):
            got += part
    assert got == b"" or got[9:12] in (b"400", b"404")
    assert b"waitress" not in got
    assert ask(address).status == 200
