"""Hold the built site against its promises: ``python site/check.py FOLDER``, as ``make site`` does.

Every page must do without the network, every picture needs an alternative text, every link into
the site must lead somewhere, and no table may be left as the text that it is made from.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Elements that fetch what they name, and the attribute that names it.
FETCHING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
#: Elements whose text is shown as it is.
CODE = ("pre", "code", "script", "style")
#: The second line of a table in Markdown, of whose dashes Sphinx may have made longer ones.
RAW_TABLE = re.compile(r"\|(?: *:?(?:-{3,}|[\u2013\u2014]):? *\|)+")
#: Links of this kind fetch nothing.
NOT_FETCHED = {"canonical", "prev", "next", "search", "index"}


class Page(HTMLParser):
    """What a page fetches, where it leads, which names it has, and its pictures."""

    def __init__(self, path: Path) -> None:
        """Read the page at ``path``."""
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.pictures: list[tuple[str, str]] = []
        self.raw_tables = 0
        self._in_code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def has(self, fragment: str) -> bool:
        """Whether a link with this fragment, or without any, leads somewhere in the page."""
        return not fragment or fragment in self.names

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of one element."""
        values = {name: value or "" for name, value in attrs}
        self._in_code += tag in CODE
        self.names |= {values[name] for name in ("id", "name") if name in values}
        if tag in FETCHING and not set(values.get("rel", "").split()) & NOT_FETCHED:
            self.fetched += [values[FETCHING[tag]]] if FETCHING[tag] in values else []
        if tag == "img":
            self.pictures.append((values.get("src", ""), values.get("alt", "")))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])

    def handle_endtag(self, tag: str) -> None:
        """Take note of the end of an element."""
        self._in_code -= tag in CODE

    def handle_data(self, data: str) -> None:
        """Look at a piece of text."""
        self.raw_tables += not self._in_code and bool(RAW_TABLE.search(data))


def faults(folder: Path) -> Iterator[str]:
    """One sentence for everything that is wrong with the pages in ``folder``."""
    # The theme leaves templates of its own among the static files.
    paths = (path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts)
    pages = {path.resolve(): Page(path) for path in paths}
    if not pages:
        yield "it has no pages"
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for source in page.fetched:
            if urlsplit(source).netloc:
                yield f"{name} fetches {source} from the network"
        for source, alt in page.pictures:
            if not alt or alt.endswith(Path(source).name):
                yield f"{name} has no alternative text for {source}"
        if page.raw_tables:
            yield f"{name} shows a table as text: | --- |"
        for link in (*page.links, *page.fetched):
            there = urlsplit(link)
            if there.scheme or there.netloc:
                continue
            target = (path.parent / unquote(there.path)).resolve() if there.path else path
            if not target.exists():
                yield f"{name} links to {link}, which is not there"
            elif target in pages and not pages[target].has(unquote(there.fragment)):
                yield f"{name} links to {link}, which has no such place"
    for path in sorted((folder / "_static").rglob("*.css")):
        for source in re.findall(r"url\(['\"]?((?:https?:)?//[^'\")]+)", path.read_text("utf-8")):
            yield f"{path.relative_to(folder)} fetches {source} from the network"


def main() -> int:
    """Print what is wrong; returns the exit code."""
    if len(sys.argv) != 2:
        print("usage: python site/check.py FOLDER", file=sys.stderr)
        return 2
    found = list(faults(Path(sys.argv[1])))
    for sentence in found:
        print(f"site: {sentence}", file=sys.stderr)
    if not found:
        print(f"the site is complete: open {sys.argv[1]}/index.html")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
