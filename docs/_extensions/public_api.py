"""The public names of dropcore: the pages that the reference has, and links to them.

A public name is in ``__all__`` of `dropcore` or of a public module. The templates of autosummary
read from `autosummary_context` what stands on a page; this extension puts it there. A public name
in backticks becomes a link, and so does a public class among the types of a parameter.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import stand_ins
from docutils import nodes
from numpydoc.docscrape import NumpyDocString
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform

import dropcore

# The sections of dropcore.nn, by the file that a name comes from. Other modules are listed by kind.
FAMILIES = {
    "Models": ("model", "sequential", "branches", "bidirectional", "layer"),
    "Usual networks": ("architectures",),
    "Layers with weights": (
        "dense", "maxout", "convolution", "recurrent", "attention", "positions", "embedding",
    ),
    "Dropout and noise": (
        "dropout", "block_dropout", "embedding_dropout", "dropconnect", "noise", "learned_dropout",
        "rates", "scaling", "ridge",
    ),
    "Normalisation": ("normalization",),
    "Activations and penalties": ("activations", "activity"),
    "Pooling and shapes": ("pooling", "reshape"),
    "Initial weights": ("initializers",),
    "Weights of other libraries": ("_state_dict", "_keras_weights"),
}  # fmt: skip

ADAPTERS = tuple(name for name in dropcore._MODULES if name in (*stand_ins.PEERS, "sklearn"))


class PublicAPI:
    """The public names and what they stand for.

    Attributes
    ----------
    objects : dict of str to object
        By full name, such as "dropcore.nn.Dense". Modules are among them.
    """

    def __init__(self) -> None:
        names = [f"dropcore.{name}" for name in dropcore._MODULES]
        stand_ins.import_adapters(names)
        self.objects: dict[str, Any] = {}
        self.modules = ["dropcore", *names]
        for name in self.modules:  # grows
            module = sys.modules[name]
            self.objects[name] = module
            for exported in module.__all__:
                value = getattr(module, exported)
                if exported.startswith("__"):
                    continue
                self.objects[f"{name}.{exported}"] = value
                if inspect.ismodule(value):
                    self.modules.append(value.__name__)
        self._pages = {value: name for name, value in self.objects.items() if is_class(value)}
        self._by_last = defaultdict(list)
        for name in self.objects:
            self._by_last[name.rpartition(".")[2]].append(name)
        self.methods: dict[tuple[str, str], str] = {}
        for owner, name in self._pages.items():
            found = self.members(owner)
            self.methods |= {(name, method): f"{name}.{method}" for method in found["methods"]}
            for base, inherited in found["inherited"]:
                self.methods |= {(name, method): f"{base}.{method}" for method in inherited}
        for value in self._pages:
            if type(value) is stand_ins.StandInType and value.__init__ is object.__init__:
                value.__signature__ = documented_signature(value)

    def sections(self, module: str) -> list[tuple[str, list[str]]]:
        """The titles and names of the sections of a module's page."""
        found: dict[str, list[str]] = {}
        prefix = f"{module}."
        if module == "dropcore.nn":
            found = {title: [] for title in FAMILIES}
            title_of = {file: title for title, files in FAMILIES.items() for file in files}
        for exported in getattr(sys.modules[module], "__all__", ()):
            value = self.objects.get(prefix + exported)
            if value is None or (inspect.ismodule(value) and module == "dropcore"):
                continue
            if module == "dropcore.nn":
                source = value.__name__ if inspect.ismodule(value) else value.__module__
                file = source.removeprefix(prefix)
                if file not in title_of:
                    raise ExtensionError(f"no section of FAMILIES has dropcore.nn.{file}")
                title = title_of[file]
            elif is_class(value):
                title = "Classes"
            elif inspect.isroutine(value):
                title = "Functions"
            else:
                title = "Data"
            found.setdefault(title, []).append(exported)
        return [(title, found[title]) for title in found if found[title]]

    def members(self, owner: type) -> dict[str, Any]:
        """What stands on the page of a class, by kind, and what it inherits from which class.

        The members of internal bases are documented with the class itself. A method without a
        docstring does what the base class says of it.
        """
        found: dict[str, Any] = {"methods": [], "attributes": [], "inherited": []}
        seen: set[str] = set()
        own = True
        for base in owner.__mro__:
            if base is object or not base.__module__.startswith("dropcore"):
                continue
            own = own and (base is owner or base not in self._pages)
            here = sorted(self._documented(base) - seen)
            if own:
                seen.update(here)
                for name in here:
                    method = inspect.isroutine(inspect.getattr_static(base, name, None))
                    found["methods" if method else "attributes"].append(name)
            elif base in self._pages and here:
                seen.update(here)
                found["inherited"].append((self._pages[base], here))
        return found

    def _documented(self, owner: type) -> set[str]:
        found = {
            name
            for name, value in vars(owner).items()
            if not name.startswith("_")
            and (isinstance(value, property | classmethod | staticmethod) or callable(value))
            and not is_class(value)
            and getattr(value, "__doc__", None)
        }
        docs = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
        return found | {n for (c, n) in docs if c == owner.__qualname__ and not n.startswith("_")}

    def data(self, name: str) -> list[str]:
        """The docstring of a constant: the lines after its assignment, wherever that is."""
        value = self.objects[name]
        last = name.rpartition(".")[2]
        for module in [m for m in sys.modules.copy() if m.startswith(name.rpartition(".")[0])]:
            if vars(sys.modules[module]).get(last) is value:
                docs = ModuleAnalyzer.for_module(module).find_attr_docs()
                if ("", last) in docs:
                    return docs["", last]
        raise ExtensionError(f"{name} has no docstring after its assignment")

    def find(self, text: str, scope: str) -> str | None:
        """The full name that a text in backticks means on a page, if it means a public one.

        Parameters
        ----------
        text : str
        scope : str
            The full name that the page is about, or "" for a document.
        """
        text = text.removesuffix("()")
        if not re.fullmatch(r"[A-Za-z_][\w.]*", text):
            return None
        for name in (text, f"dropcore.{text}") if "." in text else ():
            if name in self.objects and not name.startswith(tuple(f"{p}." for p in ADAPTERS)):
                return name
        if (scope, text) in self.methods:
            return self.methods[scope, text]
        module = scope if scope in self.modules else scope.rpartition(".")[0]
        if scope and f"{module}.{text}" in self.objects:
            return f"{module}.{text}"
        if "." in text or module.removeprefix("dropcore.") in ADAPTERS:
            return None
        if not scope and text.islower() and "_" not in text:
            return None  # a word
        found = [n for n in self._by_last[text] if n.split(".")[1] not in ADAPTERS]
        found = [n for n in found if not n.startswith("dropcore.reference.")]
        if f"dropcore.{text}" in found:
            return f"dropcore.{text}"
        return found[0] if len(found) == 1 else None


def is_class(value: Any) -> bool:
    """Whether it is a class of ours. A name for types, such as `Any`, is a constant."""
    return inspect.isclass(value) and value.__module__.startswith("dropcore")


def documented_signature(owner: type) -> inspect.Signature:
    """The signature that the parameters in a docstring describe, of a class without its base."""
    found = []
    for names, kind, _ in NumpyDocString(inspect.cleandoc(owner.__doc__ or ""))["Parameters"]:
        for name in names.split(", "):
            given = re.search(r"\bdefault (.+)$", kind)
            default: Any = inspect.Parameter.empty
            if given:
                default = ast.literal_eval(given[1])
            elif "optional" in kind:
                default = None
            stars = len(name) - len(name.lstrip("*"))
            how = ("POSITIONAL_OR_KEYWORD", "VAR_POSITIONAL", "VAR_KEYWORD")[stars]
            found.append(
                inspect.Parameter(
                    name.lstrip("*"), getattr(inspect.Parameter, how), default=default
                )
            )
    return inspect.Signature(found)


class Links(SphinxPostTransform):
    """Makes links of public names in backticks, and of classes among the types of parameters."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs: Any) -> None:
        api: PublicAPI = self.app.public_api
        docname = self.env.docname
        scope = page_of(docname, api)
        own = parameters(api.objects[scope]) if scope else set()
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, nodes.reference | addnodes.pending_xref | nodes.title):
                continue
            if node.astext() in own:
                continue
            name = api.find(node.astext(), scope)
            if name and name != scope:
                node.replace_self(reference_to(name, docname, node.deepcopy()))
        for node in list(self.document.findall(nodes.classifier)):
            for text in [child for child in node.children if isinstance(child, nodes.Text)]:
                parts = []
                for part in re.split(r"([A-Z]\w+)", text.astext()):
                    name = api.find(part, scope) if scope else None
                    known = name and is_class(api.objects[name])
                    parts.append(
                        reference_to(name, docname, nodes.inline("", part))
                        if known
                        else nodes.Text(part)
                    )
                node.replace(text, parts)


def parameters(value: Any) -> set[str]:
    """The names of the parameters of a function or class."""
    called = is_class(value) or inspect.isroutine(value)
    return set(inspect.signature(value).parameters) if called else set()


def page_of(docname: str, api: PublicAPI) -> str:
    """The public name that a page of the reference is about."""
    return api.docnames.get(docname, "")


def reference_to(name: str, docname: str, shown: nodes.Node) -> nodes.Node:
    """A link to the page of a public name."""
    return addnodes.pending_xref(
        "", shown, refdomain="py", reftype="obj", reftarget=name, refexplicit=True, refwarn=True,
        refdoc=docname,
    )  # fmt: skip


def file_names(names: Iterator[str]) -> dict[str, str]:
    """Names of pages that differ also where upper and lower case do not."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names):  # capitals first
        page = name if name.lower() not in taken else f"{name}-function"
        taken.add(page.lower())
        found[name] = page
    return found


def configure(app: Sphinx, config: Config) -> None:
    """Collect the names, and hand them to the templates of autosummary."""
    api = PublicAPI()
    pages = file_names(iter(api.objects))
    api.docnames = {f"api/{page}": name for name, page in pages.items()}
    app.public_api = api
    config.autosummary_filename_map = {n: page for n, page in pages.items() if n != page}
    config.autosummary_context = {
        "sections": {name: api.sections(name) for name in api.modules},
        "class_members": {name: api.members(value) for value, name in api._pages.items()},
        "constants": {
            name: api.data(name)
            for name, value in api.objects.items()
            if not isinstance(value, ModuleType)
            and not is_class(value)
            and not inspect.isroutine(value)
        },
    }


def forget_internal_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Take the names by which the files of the package know its classes out of the index."""
    objects = env.domains.python_domain.objects
    for name in [name for name, entry in objects.items() if entry.aliased]:
        del objects[name]


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("config-inited", configure, priority=100)
    app.connect("env-updated", forget_internal_names)
    app.add_post_transform(Links)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
