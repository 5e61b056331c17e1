"""The documentation site: what `make docs` has built is complete, and no link of it is broken."""

import importlib.util
import re
from pathlib import Path

import pytest

import dropcore
from support.site import Page, broken_links, documented

# Libraries of adapters, each of the adapter's name, that need not be installed.
PEERS = ("jax", "keras", "numba", "onnx", "thinc", "torch")

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


@pytest.mark.site
def test_pages_load_nothing_from_elsewhere():
    for path in SITE.glob("*.html"):
        page = Page(path)
        assert page.loaded
        assert not [address for address in page.loaded if "//" in address], path.name


def public_names():
    """Full names of all that is public and can be imported here, and of the modules that cannot."""
    names, absent = {"dropcore"}, set()
    pending = ["dropcore", *(f"dropcore.{name}" for name in dropcore._MODULES)]
    for name in pending:
        names.add(name)
        library = name.removeprefix("dropcore.")
        if library in PEERS and importlib.util.find_spec(library) is None:
            absent.add(name)
            continue
        module = importlib.import_module(name)
        for exported in module.__all__:
            if exported.startswith("__"):
                continue
            names.add(f"{name}.{exported}")
            if isinstance(getattr(module, exported), type(dropcore)):
                pending.append(f"{name}.{exported}")
    return names, absent


@pytest.mark.site
def test_every_public_name_has_a_page_and_no_internal_one_has():
    found = documented(SITE / "objects.inv")
    names, absent = public_names()
    pages = {path.stem.removesuffix("-function"): Page(path) for path in SITE.glob("api/*.html")}
    assert names <= found
    assert names == {name for name in pages if not name.startswith(tuple(f"{m}." for m in absent))}
    for name, page in pages.items():
        assert {name, f"module-{name}"} & page.anchors, name
    for module in absent:
        source = Path(dropcore.__file__).parent / f"{module.removeprefix('dropcore.')}.py"
        if not source.is_file():
            source = source.with_suffix("") / "__init__.py"
        exported = re.search(r"^__all__ = \[(.*?)\]", source.read_text("utf-8"), re.M | re.S)
        assert exported
        assert {name for name in pages if name.startswith(f"{module}.")} == {
            f"{module}.{name}" for name in re.findall(r'"(\w+)"', exported[1])
        }
    for name in found:
        assert not any(part.startswith("_") for part in name.split(".")), name
        assert name in pages or name.rpartition(".")[0] in pages, name
