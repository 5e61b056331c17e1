"""The requirements of pyproject.toml by sets, and the locks in requirements/ that pin them.

locks.py make         resolves every set and writes its lock; needs the package uv
locks.py print SET... prints what pip is to install, see .ci/requirements

A set is `run`, `build`, or an extra or a dependency group of pyproject.toml. A lock begins with the
requirements that it was made from: tests/project/test_locks.py compares them with pyproject.toml,
without a network.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
LOCKS: Final = ROOT / "requirements"

TOGETHER: Final = ("run", "build", "test", "lint", "docs", "bench", "wheel", "lock")
"""Sets that are installed beside each other: a package has one version in all of their locks."""

LOCKED: Final = {
    **{name: (name,) for name in TOGETHER},
    "editable": ("build", "run"),
    "peers": ("peers", "test", "build", "run"),
}
"""The sets that a lock holds, by its name: some are installed at once."""

PYTHON: Final = ("CPython", "3.11", "Linux", "x86_64")
"""The interpreter that the locks are for."""

RULE: Final = "#   "
"""What the lines of a lock begin with that name the requirements which it was made from."""


def requirements(project: dict[str, Any], name: str) -> Iterator[str]:
    """The requirements of a set, with those of the extras that it names itself."""
    named = {
        "run": project["project"]["dependencies"],
        "build": project["build-system"]["requires"],
        **project["project"]["optional-dependencies"],
        **project["dependency-groups"],
    }
    if name not in named:
        sys.exit(f"pyproject.toml has no set of requirements {name!r}, but {', '.join(named)}")
    for line in named[name]:
        if line.startswith("dropcore["):
            for inner in line.removeprefix("dropcore[").removesuffix("]").split(","):
                yield from requirements(project, inner)
        else:
            yield line


def union(project: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """The requirements of several sets, each once."""
    return list(dict.fromkeys(line for name in names for line in requirements(project, name)))


def read_project() -> dict[str, Any]:
    """The content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def header(lines: list[str]) -> str:
    """How a lock begins."""
    implementation, version, system, machine = PYTHON
    return "\n".join(
        [
            "# Made by `make locks`; not to be edited.",
            f"# For {implementation} {version} on {system} {machine}, from these requirements:",
            *(RULE + line for line in lines),
            "--require-hashes",
            "--only-binary :all:",
            "",
        ]
    )


def resolve(lines: list[str], pins: str, folder: Path) -> str:
    """What uv makes of the requirements: versions and hashes. `pins` keeps versions."""
    (folder / "lines.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "pins.txt").write_text(pins, "utf-8")
    _, version, _, machine = PYTHON
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet"),
        *("--python-version", version, "--python-platform", f"{machine}-manylinux_2_28"),
        *("--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links"),
        *("--only-binary", ":all:", "--prerelease", "disallow"),
        *("--constraint", "pins.txt", "lines.txt"),
    ]
    # Where pip looks for wheels, uv looks as well: PyTorch's for the CPU come from elsewhere.
    environment = os.environ | {"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.replace("-r lines.txt", "pyproject.toml")


def make() -> None:
    """Write every lock."""
    project = read_project()
    LOCKS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        every = resolve(union(project, TOGETHER), "", folder)
        pins = "".join(
            line.split()[0] + "\n" for line in every.splitlines() if "==" in line.split(" ")[0]
        )
        for name, sets in LOCKED.items():
            lines = union(project, sets)
            locked = resolve(lines, "" if name == "peers" else pins, folder)
            (LOCKS / f"{name}.txt").write_text(header(lines) + locked, "utf-8")
            print(f"requirements/{name}.txt: {locked.count('==')} packages")


def print_sets(names: list[str]) -> None:
    """Print what pip is to install: a lock where it is asked for and fits, else requirements."""
    here = (
        platform.python_implementation(),
        platform.python_version().rpartition(".")[0],
        platform.system(),
        platform.machine(),
    )
    locked = os.environ.get("DROPCORE_LOCKED", "0") not in ("", "0")
    if locked and here == PYTHON:
        if len(names) != 1 or names[0] not in LOCKED:
            sys.exit(f"a lock is one of {', '.join(LOCKED)}, got {' '.join(names)}")
        print((LOCKS / f"{names[0]}.txt").read_text("utf-8"), end="")
        return
    if locked:
        print(
            f"no lock: requirements/ is for {' '.join(PYTHON)}, and this is {' '.join(here)}; "
            "pip chooses versions from pyproject.toml",
            file=sys.stderr,
        )
    sets = tuple(inner for name in names for inner in LOCKED.get(name, (name,)))
    print(*union(read_project(), sets), sep="\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make"]:
            make()
        case ["print", _, *_]:
            print_sets(sys.argv[2:])
        case _:
            sys.exit(__doc__)
