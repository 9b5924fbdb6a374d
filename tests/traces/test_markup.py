"""The HTML that objects show: everything of the user's is text in it, and it is well formed."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from optgeom.traces import markup
from optgeom.traces.printable import printable

ANYTHING = st.text(max_size=40) | st.sampled_from(
    ["</td><script>alert(1)</script>", '" onclick="x', "&amp;", "\x1b[2J", "\ud800", "<b"]
)
TAGS = {"div", "b", "span", "table", "tr", "td", "th", "ul", "li"}
ATTRIBUTES = {"style", "colspan"}


class Seen(HTMLParser):
    """What a browser would find: tags, attributes, and the texts in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data


@given(st.lists(st.tuples(ANYTHING, ANYTHING), max_size=4), st.lists(ANYTHING, max_size=3))
def test_whatever_a_name_holds_is_text(pairs: list[tuple[str, str]], said: list[str]) -> None:
    page = markup.shown(
        "title",
        "",
        markup.facts(dict(pairs)),
        markup.columns(("a", "b"), pairs, right=(1,), wrap=(0,)),
        markup.listed(said),
    )
    page.encode()  # half a character would not be written
    seen = Seen(page)
    assert seen.tags <= TAGS
    assert seen.attributes <= ATTRIBUTES
    given_texts = [*dict(pairs).items(), *pairs]
    wanted = [printable(one) for pair in given_texts for one in pair] + [printable(s) for s in said]
    wanted = [one for one in wanted if one]
    found = [one for one in seen.texts if one]
    assert found[:1] == ["title"]
    for one in wanted:
        assert one in found


def test_no_assets_and_no_colours_of_its_own() -> None:
    page = markup.shown("t", "u", markup.columns(("a",), [("b",)]), markup.listed(["c"]))
    assert not any(word in page for word in ("http", "src=", "url(", "color", "background"))
