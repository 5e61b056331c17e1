"""Optional packages are imported when they are used, and named where they are missing."""

import importlib

import pytest

from dropcore._base.extras import EXTRAS, require


def test_a_module_that_is_there_is_imported():
    assert require("sklearn.preprocessing", "tables", "a test").StandardScaler


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(EXTRAS, "tables", ("no_such_package",))
    message = (
        r"reading a CSV file needs no_such_package, which is not installed: "
        r"pip install 'dropcore\[tables\]'"
    )
    with pytest.raises(ImportError, match=message):
        require("no_such_package.inner", "tables", "reading a CSV file")


def test_a_package_that_fails_inside_is_not_called_missing(monkeypatch):
    def fails(name):
        raise ModuleNotFoundError("No module named 'inner'", name="inner")

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'inner'$"):
        require("sklearn", "tables", "a test")
