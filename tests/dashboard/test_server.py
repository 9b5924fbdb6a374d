from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from optgeom.dashboard.server import DashboardError, address_of, hostname, make_server, serve
from optgeom.traces.errors import OptgeomError


def _get(address: str, host: str | None = None) -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


def test_it_answers_on_loopback_with_a_strict_policy(address: str) -> None:
    status, headers = _get(address)
    assert status == 200
    policy = headers["Content-Security-Policy"]
    script = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "'unsafe-eval'" not in policy
    assert "'unsafe-inline'" not in script
    assert "http" not in policy


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "0.0.0.0"])
def test_a_foreign_host_header_is_refused(address: str, host: str) -> None:
    assert _get(address, host or " ")[0] in (400, 421)


@pytest.mark.parametrize("host", ["localhost:1234", "[::1]:8050", "127.0.0.1"])
def test_loopback_names_are_answered(address: str, host: str) -> None:
    assert _get(address, host)[0] == 200


def test_a_host_header_is_parsed() -> None:
    assert [hostname(one) for one in ("LOCALHOST:80", "[::1]", "", "a:b:c")] == [
        "localhost",
        "::1",
        "",
        "a",
    ]


def test_a_taken_port_is_named(demo: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DashboardError, match=f"port {port} is taken"):
            make_server(demo, port=port)


def test_it_is_never_served_to_a_network(demo: Path) -> None:
    with pytest.raises(DashboardError, match="loopback"):
        make_server(demo, host="0.0.0.0")
    with pytest.raises(DashboardError, match="65535"):
        make_server(demo, port=70000)


def test_a_folder_that_is_no_trace_fails_before_listening(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(OptgeomError, match="no trace"):
        serve(tmp_path, port=0, on_ready=lambda _: pytest.fail("it was served"))


def test_serve_says_where(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_server(demo, port=0)
    said: list[str] = []
    ready = threading.Event()

    def note(address: str) -> None:
        said.append(address)
        ready.set()

    monkeypatch.setattr("optgeom.dashboard.server.make_server", lambda *_, **__: made)
    monkeypatch.setattr(made, "run", lambda: None)
    serve(demo, port=0, on_ready=note)
    assert ready.is_set()
    assert said == [address_of("127.0.0.1", made.effective_port)]
