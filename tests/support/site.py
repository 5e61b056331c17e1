"""The built documentation site, as files."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the anchors of a page, and what it loads with itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.update(found[name] for name in ("id", "name") if found.get(name))
        self.links.extend(found[name] for name in ("href", "src") if found.get(name))
        if tag == "link" or "src" in found:
            self.loaded.append(found.get("src") or found.get("href") or "")


def broken_links(folder: Path) -> Iterator[str]:
    """The links of pages to files and anchors of the site that are not there."""
    found = [path.resolve() for path in sorted(folder.rglob("*.html"))]
    pages = {path: Page(path) for path in found if "_static" not in path.parts}  # templates
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            where = path.relative_to(folder.resolve())
            if not target.is_file():
                yield f"{where}: {link}: no such file"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{where}: {link}: no such anchor"


def documented(inventory: Path) -> set[str]:
    """The Python names that Sphinx's inventory ``objects.inv`` lists."""
    text = inventory.read_bytes().split(b"\n", 4)[4]  # four lines say what it is
    lines = zlib.decompress(text).decode("utf-8").splitlines()
    return {line.split(" ")[0] for line in lines if " py:" in line}
