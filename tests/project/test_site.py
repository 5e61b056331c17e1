"""The documentation site: what `make docs` has built is complete, and no link of it is broken."""

from pathlib import Path

import pytest

from support.site import broken_links

SITE = Path(__file__).parents[2] / "build" / "docs"


def test_broken_links_and_anchors_are_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<a href="sub/b.html#here">1</a> <a href="#gone">2</a> <a href="sub/b.html#gone">3</a>'
        '<img src="no.png"> <a href="https://example.org/#x">4</a> <a href="sub/c.html">5</a>'
    )
    (tmp_path / "sub" / "b.html").write_text('<p id="here"><a href="../a.html">6</a></p>')
    assert list(broken_links(tmp_path)) == [
        "a.html: #gone: no such anchor",
        "a.html: sub/b.html#gone: no such anchor",
        "a.html: no.png: no such file",
        "a.html: sub/c.html: no such file",
    ]


@pytest.mark.site
def test_no_link_is_broken():
    assert (SITE / "index.html").is_file()
    assert not list(broken_links(SITE))
