"""Who is answered: over HTTP where it matters, else the functions."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from optgeom.dashboard import access, server
from optgeom.dashboard.access import (
    Attempts,
    DashboardError,
    access_to,
    answer_to,
    chosen_token,
    hostname,
    is_loopback,
    new_token,
    token_in,
)
from tests.dashboard.asking import CALLBACKS, TOKEN, Got, ask, served

OWN_NAME = socket.gethostname().lower()


@pytest.fixture(scope="module")
def guarded(demo: Path) -> Iterator[str]:
    with served(demo, token=TOKEN) as at:
        yield at


def _cookie(got: Got) -> str:
    return got.headers["set-cookie"].partition(";")[0]


def _environ(**given: str) -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1", **given}


class TestNames:
    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "0.0.0.0", None])
    def test_a_foreign_or_missing_name_is_misdirected(self, address: str, host: str | None) -> None:
        assert ask(address, host=host).status == 421

    @pytest.mark.parametrize("host", ["a b", "127.0.0.1:x", "[::1", "a:b:c", "127.0.0.1, evil"])
    def test_what_is_no_name_is_a_bad_request(self, address: str, host: str) -> None:
        assert ask(address, host=host).status == 400

    @pytest.mark.parametrize("host", ["localhost:1234", "[::1]:8050", "127.0.0.1", "LOCALHOST"])
    def test_loopback_names_are_answered(self, address: str, host: str) -> None:
        assert ask(address, host=host).status == 200

    def test_a_header_is_parsed(self) -> None:
        headers = ("LOCALHOST:80", "[::1]", "", "a:b:c", "10.0.0.7:8050", "a/b")
        assert [hostname(one) for one in headers] == [
            "localhost",
            "::1",
            None,
            None,
            "10.0.0.7",
            None,
        ]

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("gpu-1:8050", None),
            ("GPU-1", None),
            ("localhost", None),
            ("gpu-2", 421),
            ("10.0.0.7", 421),
        ],
    )
    def test_a_server_on_one_host_answers_to_its_name(self, host: str, status: int | None) -> None:
        found = answer_to(access_to("gpu-1", None), _environ(HTTP_HOST=host))
        assert (found and int(found.status[:3])) == status

    @pytest.mark.parametrize(
        ("host", "status"),
        [("10.0.0.7:8050", None), ("[fe80::1]", None), (OWN_NAME, None), ("evil.example", 421)],
    )
    def test_a_server_on_all_addresses_answers_to_addresses_and_own_names(
        self, host: str, status: int | None
    ) -> None:
        asked = access_to("0.0.0.0", None, everywhere=True)
        found = answer_to(asked, _environ(HTTP_HOST=host))
        assert (found and int(found.status[:3])) == status

    def test_what_is_loopback(self) -> None:
        inside = ("127.0.0.1", "127.0.0.2", "localhost", "::1")
        outside = ("0.0.0.0", "::", "10.0.0.7", "0", "", "127.0.0.1.evil.example", "gpu-1")
        assert all(is_loopback(one) for one in inside)
        assert not any(is_loopback(one) for one in outside)


class TestOtherSites:
    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    @pytest.mark.parametrize(
        ("method", "mode", "dest", "status"),
        [
            ("GET", "navigate", "document", 200),
            ("GET", "navigate", "iframe", 403),
            ("GET", "no-cors", "image", 403),
            ("GET", "cors", "empty", 403),
            ("POST", "navigate", "document", 403),
            ("OPTIONS", "cors", "empty", 403),
        ],
    )
    def test_they_may_link_here_and_nothing_else(
        self, address: str, site: str, method: str, mode: str, dest: str, status: int
    ) -> None:
        sent = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": dest}
        assert ask(address, "/", method, **sent).status == status

    @pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://127.0.0.1:1", ""])
    def test_a_post_of_another_origin_is_refused(self, address: str, origin: str) -> None:
        assert ask(address, CALLBACKS, "POST", origin=origin).status == 403

    def test_a_post_of_the_page_reaches_it(self, address: str) -> None:
        sent = {"origin": address, "sec_fetch_site": "same-origin", "content_length": "0"}
        assert ask(address, CALLBACKS, "POST", **sent).status == 415

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW"])
    def test_other_methods_are_refused(self, address: str, method: str) -> None:
        got = ask(address, "/", method)
        assert got.status == 405
        assert got.headers["allow"] == "GET, HEAD, POST, OPTIONS"

    @pytest.mark.parametrize(
        "path", ["/_reload-hash", "/_mcp", "/_dash-ws-callback", "/_alive_x", "/%5freload-hash"]
    )
    def test_tools_for_developers_are_not_there(self, address: str, path: str) -> None:
        assert ask(address, path).status == 404


class TestToken:
    @pytest.mark.parametrize(
        ("path", "method"),
        [
            ("/", "GET"),
            ("/", "HEAD"),
            ("/", "OPTIONS"),
            ("/runs?a=muon", "GET"),
            ("/assets/style.css", "GET"),
            ("/_dash-layout", "GET"),
            ("/_dash-dependencies", "GET"),
            ("/_dash-component-suites/dash/deps/react.js", "GET"),
            ("/_reload-hash", "GET"),
            (CALLBACKS, "POST"),
            (f"{CALLBACKS}?token={TOKEN}", "POST"),
            ("/?tokens=x&atoken=y", "GET"),
        ],
    )
    def test_without_it_everything_is_one_line_of_text(
        self, guarded: str, path: str, method: str
    ) -> None:
        got = ask(guarded, path, method)
        assert got.status == 403
        assert got.headers["content-type"].startswith("text/plain")
        assert got.text.count("\n") == (0 if method == "HEAD" else 1)

    def test_it_becomes_a_cookie_and_leaves_the_address(self, guarded: str) -> None:
        asked = f"/runs?a=%6Duon&token={TOKEN}&layer=a%2Fb+c&x=%c3%bc&b="
        got = ask(guarded, asked, sec_fetch_site="none")
        assert got.status == 303
        assert got.headers["location"] == "/runs?a=%6Duon&layer=a%2Fb+c&x=%c3%bc&b="
        name, _, rest = got.headers["set-cookie"].partition("=")
        assert name == f"optgeom_{urlsplit(guarded).port}"
        assert rest.split("; ")[1:] == ["HttpOnly", "SameSite=Strict", "Path=/"]
        assert TOKEN not in rest
        assert re.fullmatch("[0-9a-f]{64}", rest.partition(";")[0])
        for path in ("/", "/_dash-layout", "/assets/style.css"):
            assert ask(guarded, path, cookie=f"other=1; {_cookie(got)}; last=2").status == 200

    @pytest.mark.parametrize(
        ("asked", "place"),
        [
            ("//evil.example/", "/evil.example/"),
            ("/%5Cevil.example", "/%5Cevil.example"),
            ("/%2F%2Fevil.example", "/evil.example"),
            ("http://evil.example/runs", "/runs"),
            ("/a%0d%0aSet-Cookie:x=y", "/a%0D%0ASet-Cookie:x=y"),
        ],
    )
    def test_it_never_leads_to_another_host(self, guarded: str, asked: str, place: str) -> None:
        got = ask(guarded, f"{asked}?token={TOKEN}")
        assert (got.status, got.headers["location"]) == (303, place)

    def test_a_known_browser_only_loses_it_from_the_address(self, guarded: str) -> None:
        cookie = _cookie(ask(guarded, f"/?token={TOKEN}"))
        got = ask(guarded, "/?token=old-one-of-yesterday&a=muon", cookie=cookie)
        assert (got.status, got.headers["location"]) == (303, "/?a=muon")
        assert "set-cookie" not in got.headers

    def test_programs_send_it_as_a_header(self, guarded: str) -> None:
        assert ask(guarded, "/_dash-layout", authorization=f"Bearer {TOKEN}").status == 200
        assert ask(guarded, "/", authorization="Basic eDp5").status == 403

    def test_the_cookie_is_no_other_servers(self, guarded: str, demo: Path) -> None:
        cookie = _cookie(ask(guarded, f"/?token={TOKEN}"))
        name = cookie.partition("=")[0]
        for forged in (f"{name}={TOKEN}", f"{name}=", f"{name}={'0' * 64}", f"x{cookie}"):
            assert ask(guarded, cookie=forged).status == 403
        with served(demo, token=TOKEN) as again:
            port = urlsplit(again).port
            assert ask(again, cookie=f"optgeom_{port}={cookie[-64:]}").status == 403

    def test_the_cookie_bears_the_port_that_the_browser_sees(self, guarded: str) -> None:
        got = ask(guarded, f"/?token={TOKEN}", host="localhost:9000")
        assert got.headers["set-cookie"].startswith("optgeom_9000=")

    def test_after_ten_wrong_ones_no_token_is_read_for_a_minute(self, demo: Path) -> None:
        with served(demo, token=TOKEN) as at:
            cookie = _cookie(ask(at, f"/?token={TOKEN}"))
            half = [ask(at, f"/?token=wrong{n}").status for n in range(5)]
            half += [ask(at, "/", authorization=f"Bearer {TOKEN}{n}").status for n in range(5)]
            assert half == [403] * 10
            got = ask(at, f"/?token={TOKEN}")
            assert (got.status, got.headers["retry-after"]) == (429, "60")
            assert ask(at, "/", authorization=f"Bearer {TOKEN}").status == 429
            assert ask(at, cookie=cookie).status == 200
            assert ask(at).status == 403

    def test_wrong_ones_are_forgotten_and_never_piled_up(self) -> None:
        now = [0.0]
        attempts = Attempts(lambda: now[0])
        for _ in range(10):
            assert attempts.judge("wrong", TOKEN) is False
        assert [attempts.judge(TOKEN, TOKEN) for _ in range(1000)] == [None] * 1000
        now[0] = access.MINUTE
        assert attempts.judge(TOKEN, TOKEN) is True
        assert attempts.judge("w\N{LATIN SMALL LETTER O WITH DIAERESIS}rong", TOKEN) is False

    def test_it_is_in_no_log_and_reaches_nothing_inside(
        self, demo: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        wrong = "wrong-but-nearly-right"
        with served(demo, token=TOKEN) as at:
            cookie = _cookie(ask(at, f"/?token={TOKEN}"))
            ask(at, cookie=cookie)
            ask(at, f"/?token={wrong}")
            ask(at, "/_dash-component-suites/none/x.js", authorization=f"Bearer {TOKEN}")
        assert "refused a wrong token from 127.0.0.1" in caplog.text
        assert not any(secret in caplog.text for secret in (TOKEN, wrong, cookie[-64:]))
        seen: list[Any] = []

        def inner(environ: dict[str, Any], start: Any) -> list[bytes]:
            seen.append(environ)
            start("200 OK", [])
            return []

        app = server.guarded(inner, "default-src 'self'", access_to("localhost", TOKEN))
        list(app(_environ(HTTP_AUTHORIZATION=f"bearer {TOKEN}"), lambda *_: print))
        assert len(seen) == 1
        assert TOKEN not in repr(seen)
        assert TOKEN not in repr(access_to("localhost", TOKEN))


class TestChoosing:
    def test_where_a_token_comes_from(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "token"
        file.write_text(f"{TOKEN}\n")
        file.chmod(0o600)
        assert chosen_token(None, None, {}) is None
        assert chosen_token(None, file, {"OPTGEOM_TOKEN": "x" * 20}) == TOKEN
        assert chosen_token(None, None, {"OPTGEOM_TOKEN": "x" * 20}) == "x" * 20
        made = [chosen_token("auto", None, {}), new_token()]
        assert len({*made}) == 2
        assert all(one is not None and len(one) == 43 for one in made)
        assert caplog.text == ""
        file.chmod(0o644)
        assert token_in(file) == TOKEN
        assert "chmod 600" in caplog.text

    @pytest.mark.parametrize(
        ("option", "named", "variable", "said"),
        [
            (TOKEN, None, None, "ps"),
            ("auto", "token", None, "leave one out"),
            (None, "nowhere", None, "cannot read the token file .*nowhere"),
            (None, "empty", None, "has 0"),
            (None, None, "", "OPTGEOM_TOKEN has 0"),
        ],
    )
    def test_a_token_that_is_none(
        self, tmp_path: Path, option: str | None, named: str | None, variable: str | None, said: str
    ) -> None:
        (tmp_path / "empty").write_text("\n")
        environ = {} if variable is None else {"OPTGEOM_TOKEN": variable}
        with pytest.raises(DashboardError, match=said) as refused:
            chosen_token(option, None if named is None else tmp_path / named, environ)
        assert TOKEN not in str(refused.value)
