"""What the page must never do, whoever asks: in real Chromium, over raw sockets, from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zoneinfo import TZPATH

import pytest

from optgeom.dashboard import server
from optgeom.dashboard.app import create_app
from optgeom.dashboard.controls import PAGES
from tests.dashboard.asking import CALLBACKS, TOKEN, ask, call, calls, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

SCRIPT = "<script>document.title='hacked'</script><img src=x onerror=document.title='hacked'>"
HOSTILE = (
    "../../etc",
    "../secret",
    "%2e%2e%2fsecret",
    "/etc/passwd",
    "..\\..\\etc",
    "file:///etc",
    "s3://bucket/key",
    "a\0b",
    "\ud800",
    "x" * 8_000,
    SCRIPT,
)
# Counts what the policy blocked; it runs before any script of the page.
LISTEN = """
window.blocked = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.blocked.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


# -- in a browser ------------------------------------------------------------------------------


class Watched:
    """A page of a context of its own, and everything that it asked for, said or was denied."""

    def __init__(self, context: BrowserContext) -> None:
        context.add_init_script(LISTEN)
        self.context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.statuses: dict[str, int] = {}
        self.page.on("request", lambda one: self.asked.append(one.url))
        self.page.on("response", lambda one: self.statuses.update({one.url: one.status}))
        self.page.on("websocket", lambda one: self.asked.append(one.url))
        self.page.on("console", lambda one: self.said.append(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))

    def open(self, address: str) -> Page:
        """Open an address and wait until nothing is loaded any more."""
        self.page.goto(address)
        self.page.wait_for_selector("#mantine, main", state="attached")
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function(
            "() => !document.querySelector('[data-dash-is-loading=\"true\"]')"
        )
        return self.page

    def blocked(self) -> list[str]:
        """Return what the policy blocked in the document that is shown."""
        return list(self.page.evaluate("() => window.blocked"))


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[[], Watched]]:
    """Open contexts that know nothing of each other."""
    opened: list[BrowserContext] = []

    def opener() -> Watched:
        opened.append(browser.new_context(viewport={"width": 1440, "height": 900}))
        return Watched(opened[-1])

    yield opener
    for one in opened:
        one.close()


@pytest.mark.browser
@pytest.mark.parametrize("path", list(PAGES))
def test_a_page_needs_nothing_that_its_policy_denies(
    watch: Callable[[], Watched], address: str, path: str
) -> None:
    watched = watch()
    page = watched.open(address + path)
    page.mouse.move(700, 400)
    page.wait_for_timeout(300)
    assert watched.blocked() == []
    assert [one for one in watched.said if one.startswith(("error", "warning"))] == []
    assert len(watched.asked) > 5
    assert [one for one in watched.asked if not one.startswith((address, "data:", "blob:"))] == []
    assert watched.context.service_workers == []
    script = "() => navigator.serviceWorker.getRegistrations().then((found) => found.length)"
    assert page.evaluate(script) == 0
    # the policy is there: a script of anybody else does not run, and that is noticed
    page.evaluate(
        "() => { const script = document.createElement('script');"
        " script.textContent = 'document.title = 1'; document.body.append(script); }"
    )
    page.wait_for_function("() => window.blocked.length === 1")
    assert page.title().endswith("optgeom")


@pytest.mark.browser
@pytest.mark.parametrize("path", list(PAGES))
def test_an_address_is_text(watch: Callable[[], Watched], address: str, path: str) -> None:
    watched = watch()
    script = quote(SCRIPT)
    names = "&".join(f"{name}={script}" for name in ("a", "b", "more", "layer", "stage", "step"))
    page = watched.open(f"{address}{path}?{names}#{script}")
    assert page.title().endswith("optgeom")
    assert page.locator("img[src=x]").count() == 0
    assert watched.blocked() == []


@pytest.mark.slow
@pytest.mark.browser
def test_the_token_opens_one_browser_and_is_not_seen_again(
    watch: Callable[[], Watched], demo: Path
) -> None:
    with served(demo, token=TOKEN) as at:
        printed = f"{at}/?token={TOKEN}"
        known, stranger = watch(), watch()
        page = known.open(f"{printed}&a=adamw&b=muon")
        assert page.url.startswith(f"{at}/?a=adamw&b=muon")
        assert page.evaluate("() => document.cookie") == ""
        (cookie,) = known.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert TOKEN not in str(cookie) + page.content()
        asked = [url for url in known.asked if TOKEN in url]
        assert asked == [f"{printed}&a=adamw&b=muon"]
        assert set(known.statuses.values()) <= {200, 204, 303, 304}
        for path in PAGES:
            known.open(at + path)
            assert stranger.page.goto(at + path).status == 403  # type: ignore[union-attr]
        assert known.blocked() == []
        for one in (known, stranger):
            one.context.close()  # a server ends when its browsers have hung up


@pytest.mark.slow
@pytest.mark.browser
def test_another_sites_page_gets_nothing_but_a_link(
    watch: Callable[[], Watched], demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a browser, localhost is another site than 127.0.0.1."""
    written: list[str] = []
    answered: list[tuple[str, str, str]] = []
    guarded = server.guarded

    def noting(*given: Any) -> Any:
        inner = guarded(*given)

        def application(environ: dict[str, Any], start: Any) -> Any:
            def started(status: str, *rest: Any) -> Any:
                site = environ.get("HTTP_SEC_FETCH_SITE", "")
                answered.append((site, environ["REQUEST_URI"], status[:3]))
                return start(status, *rest)

            return inner(environ, started)

        return application

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(written[0].encode())

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(server, "guarded", noting)
    elsewhere = HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=elsewhere.serve_forever, daemon=True)
    thread.start()
    try:
        with served(demo, token=TOKEN) as at:
            asked = [f"/_dash-layout?{n}" for n in range(4)]
            send = "{method: 'POST', mode: 'no-cors', credentials: 'include', body: '{}'}"
            written.append(
                f"<iframe src='{at}{asked[0]}'></iframe><img src='{at}{asked[1]}'>"
                f"<script src='{at}{asked[2]}'></script><a href='{at}/'>here</a>"
                f"<script>fetch('{at}{asked[3]}', {{mode: 'no-cors', credentials: 'include'}});"
                f"fetch('{at}{CALLBACKS}', {send})</script>"
            )
            watched = watch()
            watched.open(f"{at}/?token={TOKEN}")
            answered.clear()
            watched.page.goto(f"http://localhost:{elsewhere.server_port}/")
            watched.page.wait_for_load_state("networkidle")
            crossed = {(path, status) for site, path, status in answered if site == "cross-site"}
            assert crossed == {(path, "403") for path in (*asked, CALLBACKS)}
            # a link of another site brings no cookie, typing the address does
            watched.page.click("text=here")
            watched.page.wait_for_url(f"{at}/")
            assert "press Enter in the address bar" in watched.page.content()
            watched.open(f"{at}/")
            assert answered[-1][2] in ("200", "204")
            watched.context.close()
    finally:
        elsewhere.shutdown()
        elsewhere.server_close()
        thread.join(timeout=5)


# -- from outside ------------------------------------------------------------------------------

# Serves a folder until its input ends, then says which files were opened since it was ready.
OPENED = """
import json, sys, threading
from optgeom.dashboard.server import make_server
from optgeom.traces.files.place import Place
opened, read = [], Place.open
def noted(self, path):
    opened.append(f"{self.root}/{path}")
    return read(self, path)
def heard(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        opened.append(args[0] if isinstance(args[0], str) else args[0].decode())
Place.open = noted
sys.addaudithook(heard)
made = make_server(sys.argv[1], port=0)
threading.Thread(target=made.run, daemon=True).start()
print(made.effective_port, flush=True)
sys.stdin.read()
made.close()
print(json.dumps(opened), flush=True)
"""


@contextlib.contextmanager
def _apart(script: str, *given: str, **environ: str) -> Iterator[tuple[str, list[str]]]:
    """Run a script that serves, and yield its address and, at the end, its last words."""
    started = subprocess.Popen(
        [sys.executable, "-c", script, *given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environ,
    )
    last: list[str] = []
    try:
        assert started.stdout is not None
        yield f"http://127.0.0.1:{int(started.stdout.readline())}", last
        last.append(started.communicate(timeout=60)[0])
    finally:
        started.kill()
        started.communicate()


def test_nothing_outside_the_folder_is_read(fake: ModuleType, tmp_path: Path) -> None:
    runs = fake.write_demo(tmp_path / "runs", raw=(0, 20))
    fake.write_run(tmp_path / "secret", "muon", blocks=1, names=("canary.weight",))
    with _apart(OPENED, str(runs)) as (at, last):
        for value in HOSTILE:
            name = quote(value, errors="replace")
            for page in PAGES:
                asked = f"{page}?a={name}&b={name}&more={name}&layer={name}&stage={name}"
                assert ask(at, asked).status == 200
            for path in (f"/csv/{name}", f"/csv/norms?a={name}&layer={name}", f"/assets/{name}"):
                got = ask(at, path)
                assert got.status in (200, 404)
                assert "canary" not in got.text
            for one in calls(at, value):
                got = call(at, one)
                assert got.status in (200, 204), one
                assert "Traceback" not in got.text
                assert "canary" not in got.text
        assert ask(at, "/../secret/run.json").text.startswith("<!DOCTYPE html>")
    opened = {Path(os.path.realpath(one)) for one in json.loads(last[0])}
    own = (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path, *TZPATH)
    known = [Path(os.path.realpath(one)) for one in (runs, Path(server.__file__).parents[1], *own)]
    assert any(one.is_relative_to(known[0]) for one in opened)
    assert not any(one.is_relative_to(tmp_path.resolve() / "secret") for one in opened)
    assert {one for one in opened if not any(map(one.is_relative_to, known))} == set()


def test_no_environment_brings_tools_for_developers(demo: Path) -> None:
    names = ("DEBUG", "UI", "HOT_RELOAD", "PROPS_CHECK", "SERVE_DEV_BUNDLES", "MCP_ENABLED")
    asked = {f"DASH_{name}": "true" for name in names}
    asked |= {"FLASK_DEBUG": "1", "FLASK_ENV": "development", "WERKZEUG_DEBUG_PIN": "off"}
    with _apart(OPENED, str(demo), **asked) as (at, _):
        page = ask(at).text
        config = json.loads(page.partition('id="_dash-config"')[2].partition(">")[2].split("<")[0])
        assert (config["ui"], config["props_check"]) == (False, False)
        assert config["validate_callbacks"] is False
        assert not {"hot_reload", "dev_tools", "websocket"} & set(config)
        assert "_debugger" not in page
        assert ".dev." not in page
        for path in ("/_reload-hash", "/_mcp"):
            assert ask(at, path).status == 404
        for path in ("/console", "/?__debugger__=yes&cmd=resource&f=debugger.js"):
            assert ask(at, path).text.startswith("<!DOCTYPE html><html lang")
        assert call(at, b"[]").text == "A callback is called with a JSON object.\n"


def test_an_error_of_ours_shows_nothing_of_itself(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    app = server.quieted(create_app(demo))

    def fails() -> str:
        raise RuntimeError("secret of the inside")

    app.server.add_url_rule("/fails", view_func=fails)
    got = app.server.test_client().get("/fails")
    assert got.status_code == 500
    assert "secret" not in got.get_data(as_text=True)
    assert "Traceback" not in got.get_data(as_text=True)
    assert not app.server.debug
