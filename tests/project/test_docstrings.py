"""Docstrings of all that is public are complete and in numpydoc's format."""

import dataclasses
import inspect
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_extensions"

# What numpydoc can check, without what is a matter of taste here: sections that are optional
# (ES01, EX01, SA01), a description where name and type say all (PR07, RT03), types of parameters
# that are those of another function (PR04), and sentences that begin with the name of an
# argument (SS02, PR08, RT04) or with a noun that ends in s (SS05).
CHECKS = {
    "GL01", "GL02", "GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10",
    "SS01", "SS03", "SS04", "SS06",
    "PR01", "PR02", "PR03", "PR05", "PR06", "PR09", "PR10",
    "RT01", "RT02", "RT05", "YD01",
    "SA02", "SA03", "SA04",
}  # fmt: skip


def constructed(owner):
    """Whether users call the class: not a protocol, nor a result with documented fields."""
    if getattr(owner, "_is_protocol", False) or owner.__name__ == "Run":  # which `fit` makes
        return False
    if dataclasses.is_dataclass(owner):
        fields = [field.name for field in dataclasses.fields(owner) if field.init]
    elif issubclass(owner, tuple):
        fields = owner._fields
    else:
        return True
    from numpydoc.docscrape import NumpyDocString
    from sphinx.pycode import ModuleAnalyzer

    analyzed = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
    documented = {name for scope, name in analyzed if scope == owner.__qualname__}
    for names, *_ in NumpyDocString(inspect.cleandoc(owner.__doc__))["Attributes"]:
        documented |= set(names.split(", "))
    return not {name for name in fields if not name.startswith("_")} <= documented


def objects(api, is_class):
    """Name, object, and whether it is called, of all public functions, classes and methods."""
    for name, value in api.objects.items():
        if inspect.isroutine(value):
            yield name, value, True
        elif is_class(value):
            yield name, value, constructed(value)
            members = api.members(value)
            for member in (*members["methods"], *members["attributes"]):
                # A method without a docstring does what the base class says of it.
                found = next(
                    (f for c in value.__mro__ if (f := vars(c).get(member)) and f.__doc__), None
                )
                if isinstance(found, classmethod | staticmethod):
                    found = found.__func__
                if inspect.isroutine(found) or isinstance(found, property):
                    yield f"{name}.{member}", found, True


@pytest.mark.site
def test_docstrings_are_complete(monkeypatch):
    monkeypatch.syspath_prepend(EXTENSIONS)
    from numpydoc.docscrape import get_doc_object
    from numpydoc.validate import validate
    from public_api import PublicAPI, is_class

    wrong, count = [], 0
    for name, value, called in objects(PublicAPI(), is_class):
        count += 1
        for code, message in validate(get_doc_object(value))["errors"]:
            if code in CHECKS and (called or code != "PR01"):
                wrong.append(f"{name}: {code} {message}")
    assert count > 500
    assert not wrong, "\n".join(wrong)
