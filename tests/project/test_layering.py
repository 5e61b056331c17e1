"""Imports run one way, and a module keeps its private names to itself."""

import ast
import functools
import re
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dropcore

PACKAGE = Path(dropcore.__file__).parent

# From the bottom to the top. A file belongs to the first pattern that it matches and imports files
# of its own level and of lower levels only.
LEVELS = (
    ("key", "_version", "_openmp"),
    ("_base/*",),
    ("_backends/gradients", "_backends/memory", "_backends/c_api"),
    ("_backends/cpu", "_backends/cuda/*"),
    ("_backends/__init__",),
    ("mask", "runtime", "reference"),
    ("attending", "functional", "noise", "permutation", "products", "_ops/*"),
    ("updates", "constraints", "schedules"),
    ("losses", "regularizers", "optim"),
    ("distributed/*",),
    ("data/*",),
    ("training/*",),
    ("nn/*",),
    ("datasets", "uncertainty/*", "tuning/*", "diagnosis/*"),
    ("plotting/*", "report/*"),
    ("demo", "reproduction/*"),
    ("cli/*", "cli", "__main__"),
    # Doors into other libraries: nothing else of the package imports them.
    ("jax", "keras", "numba", "onnx", "sklearn/*", "thinc", "torch/*"),
)

# Packages that only collect the names of their files.
FACADES = (
    "__init__",
    "data/__init__",
    "distributed/__init__",
    "nn/__init__",
    "training/__init__",
    "training/callbacks/__init__",
    "uncertainty/__init__",
    "_base/__init__",
    "_ops/__init__",
    "sklearn/__init__",
    "torch/__init__",
)


def files():
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def level(name):
    for number, patterns in enumerate(LEVELS):
        if any(fnmatch(name, pattern) for pattern in patterns):
            return number
    raise AssertionError(f"{name} belongs to no level of LEVELS: add it")


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def executed(node):
    """The nodes below, but for blocks that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        yield child
        yield from executed(child)


def imported(tree, known):
    """Names of the package's files that a module imports, also inside functions."""
    found = set()
    for node in executed(tree):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            dotted = [node.args[0].value]
        else:
            continue
        for name in dotted:
            if name == "dropcore._core":
                found.add("_core")
            if name is None or name.split(".")[0] != "dropcore":
                continue
            path = "/".join(name.split(".")[1:])
            for candidate in (path, f"{path}/__init__" if path else "__init__"):
                if candidate in known:
                    found.add(candidate)
    return found


@functools.cache
def graph():
    known = files()
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in known.items()}
    return {name: imported(tree, known) - {name} for name, tree in trees.items()}


def problems(imports):
    """What is wrong with the imports, a line each."""
    found = []
    for name, targets in imports.items():
        if "_core" in targets and not name.startswith("_backends/") and name != "_openmp":
            found.append(f"{name} imports _core, which only _backends may")
        if name in FACADES:
            continue
        for target in targets - {"_core", *FACADES}:
            if level(target) > level(name):
                found.append(f"{name} imports {target}, which stands above it")
    arrows = {n: t - {"_core", *FACADES} for n, t in imports.items() if n not in FACADES}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append(f"files import each other in a circle: {' -> '.join(error.args[1])}")
    return found


def test_imports_run_one_way():
    assert problems(graph()) == []


@pytest.mark.parametrize(
    ("file", "target", "message"),
    [
        ("_base/device", "mask", "stands above"),
        ("optim", "training/loop", "stands above"),
        ("nn/layer", "demo", "stands above"),
        ("nn/layer", "nn/dense", "circle"),
        ("products", "_core", "only _backends"),
    ],
)
def test_an_import_that_runs_back_is_found(file, target, message):
    imports = graph()
    changed = imports | {file: imports[file] | {target}}
    assert any(message in line for line in problems(changed))


def parts_before_the_whole(trees):
    """Units that import a part of another package without having imported the package before.

    One thread that begins with a part and another that begins with the package would wait for each
    other: some versions of Python then raise an error. A unit is a package or a module beside it.
    Packages with an underscore are loaded by `import dropcore`, and commands have one thread.
    """
    packages = {
        name.split("/")[0]
        for name, tree in trees.items()
        if re.fullmatch("[a-z]+/__init__", name) and any(modules_of(tree))
    }
    for name, tree in trees.items():
        unit = name.split("/")[0]
        if unit in ("cli", "demo"):
            continue
        entrance = trees.get(f"{unit}/__init__", trees.get(unit))
        whole = {module[0] for module in modules_of(entrance) if len(module) == 1}
        needed = {module[0] for module in modules_of(tree) if len(module) > 1}
        for package in whole & packages:
            whole |= {m[0] for m in modules_of(trees[f"{package}/__init__"]) if len(m) == 1}
        for package in sorted(needed & packages - whole - {unit}):
            yield f"{name}: import dropcore.{package} in {unit} before a part of it"


def modules_of(tree):
    """Modules of dropcore that a file imports, without dropcore itself, as tuples."""
    for node in executed(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "dropcore":
            names = [f"dropcore.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            first, *rest = (name or "").split(".")
            if first == "dropcore" and rest:
                yield tuple(rest)


def test_packages_are_imported_before_their_parts():
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in files().items()}
    assert list(parts_before_the_whole(trees)) == []
    trees["nn/__init__"].body = [
        node for node in trees["nn/__init__"].body if not isinstance(node, ast.Import)
    ]
    found = list(parts_before_the_whole(trees))
    assert "nn/_saving: import dropcore.training in nn before a part of it" in found


def private_reads(tree):
    """Private attributes that a file reads of objects whose class it does not define."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    stored = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
            continue
        if node.attr.startswith("__") or node.attr in own | stored:
            continue
        yield node.lineno, ast.unparse(node)


def test_private_attributes_are_read_in_their_own_file():
    found = [
        f"{name}:{line}: {text}"
        for name, path in files().items()
        for line, text in private_reads(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []
