"""Plants each fault of mutants.toml in a copy of the tree and says which test catches it.

mutants.py [--workers N] [--only WORD] [--list FILE] [--check]

An entry has
  file   in the tree
  what   the fault, in words
  old    text that occurs once in the file
  new    what it becomes
  tests  pytest's arguments: what is to catch it, the likeliest first
  isa    avx2 unless given: the instruction set whose kernels a fault of C is compiled into, and
         which the tests use: those that are for another one are left out

Exits with 1 if a fault survives, if its text does not occur exactly once, or if the test that finds
it fails without it, too. A fault of C or Cython is compiled alone, without much optimisation, and
linked with the rest. Faults for an instruction set that this processor lacks are skipped and
counted. --check only looks for the texts.
"""

from __future__ import annotations

import argparse
import copy
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LIST: Final = Path(__file__).with_name("mutants.toml")
LIMIT: Final = 300  # seconds of a run of tests; a fault that hangs is caught
ISAS: Final = ("scalar", "avx2", "avx512", "neon")
TREE: Final = ("python", "src", "tests", "bench", "docs", "examples", ".ci", "requirements")


@dataclass(frozen=True)
class Fault:
    """An entry of the list."""

    file: str
    what: str
    old: str
    new: str
    tests: str
    isa: str = "avx2"

    @property
    def runs(self) -> list[tuple[str, ...]]:
        """Arguments of pytest: file after file, unless there is an option for all of them."""
        words = tuple(shlex.split(self.tests))
        return [words] if any(w.startswith("-") for w in words) else [(w,) for w in words]

    @property
    def compiled(self) -> bool:
        """Whether the extension must be built again."""
        return self.file.startswith("src/")


def read_list(path: Path) -> list[Fault]:
    """The entries of a list."""
    return [Fault(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["fault"]]


def original(fault: Fault) -> str:
    """The text of the file without the fault."""
    return (ROOT / fault.file).read_text("utf-8")


def stale(fault: Fault, root: Path = ROOT) -> str | None:
    """Why an entry does not fit the tree, or None."""
    path = root / fault.file
    if not path.is_file():
        return "there is no such file"
    if fault.old == fault.new:
        return "old and new are the same"
    found = path.read_text("utf-8").count(fault.old)
    return None if found == 1 else f"its text occurs {found} times: {fault.old!r}"


class Tree:
    """A copy of the tree in which faults are planted, and how its extension is compiled."""

    def __init__(self, folder: Path, compiled: bool) -> None:
        self.folder = folder
        for name in TREE:
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "api")
            )
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy2(path, folder)
        self.compile: dict[str, list[str]] = {}  # by the name of the source
        self.link: list[str] = []
        if compiled:
            self.build()

    def copied(self, folder: Path) -> Tree:
        """A second tree; what was built holds there, because its paths are relative."""
        shutil.copytree(self.folder, folder, symlinks=True)
        tree = copy.copy(self)
        tree.folder = folder
        return tree

    def build(self) -> None:
        """Build the extension once, and note the commands."""
        for path in (self.folder / "python/dropcore").glob("_core*.so"):
            path.unlink()
        text = self.run([sys.executable, "setup.py", "-v", "build_ext", "--inplace", "--force"])
        for line in text.splitlines():
            words = shlex.split(line) if " -o " in line else []
            source = Path(words[words.index("-c") + 1]) if "-c" in words else None
            if source is not None and source.parts[0] == "src":
                # The last of several levels counts; the drivers need none at all.
                self.compile[source.stem] = [*words, "-O0" if source.name == "_core.c" else "-O1"]
            elif "-shared" in words and "src/cdrop/_core.o" in line:
                self.link = words
        if "_core" not in self.compile or not self.link:
            sys.exit(f"mutants: no commands of a compiler in what setup.py printed:\n{text}")
        for path in self.built():
            shutil.copy2(path, f"{path}.clean")

    def built(self) -> list[Path]:
        """Objects and the extension."""
        commands = [*self.compile.values(), self.link]
        return [self.folder / words[words.index("-o") + 1] for words in commands]

    def run(self, command: list[str]) -> str:
        """The output of a command that must succeed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout[-3000:]}")
        return done.stdout

    def rebuild(self, fault: Fault) -> None:
        """Compile what a fault changes, and link."""
        path = Path(fault.file)
        if path.suffix in (".pxi", ".pyx"):
            self.run([sys.executable, "-m", "cython", "-3", "-Isrc/cdrop", "src/cdrop/_core.pyx"])
            sources = ["_core"]
        elif path.suffix == ".c":
            sources = [path.stem]
        elif path.name in ("clip.inc.h", "attend.inc.h"):
            sources = [{"clip.inc.h": "serial", "attend.inc.h": "attention"}[path.name]]
        elif path.parent.name == "generic":
            sources = [fault.isa]
        else:
            sources = list(self.compile)
        for source in sources:
            self.run(self.compile[source])
        self.run(self.link)
        self.install()

    def install(self) -> None:
        """Put the extension where it is imported from, as --inplace does."""
        linked = self.folder / self.link[self.link.index("-o") + 1]
        shutil.copy2(linked, self.folder / "python/dropcore" / linked.name)

    def write(self, fault: Fault, text: str) -> None:
        """Change a file."""
        path = self.folder / fault.file
        path.write_text(text, "utf-8")
        for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            cached.unlink()  # its time and size may be those of the changed file

    def plant(self, fault: Fault) -> None:
        """Put a fault into the tree."""
        self.write(fault, original(fault).replace(fault.old, fault.new))
        if fault.compiled:
            self.rebuild(fault)

    def restore(self, fault: Fault) -> None:
        """Take it out again."""
        self.write(fault, original(fault))
        if fault.compiled:
            for path in self.built():
                shutil.copy2(f"{path}.clean", path)
            self.install()

    def test(self, arguments: tuple[str, ...], isa: str) -> tuple[str, str, tuple[str, ...]]:
        """`passed`, `caught` or `broken`, by what, and the arguments that show it again."""
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *("--no-header", "--tb=line", "-rfE", *arguments),
        ]
        environment = os.environ | {"PYTHONPATH": str(self.folder / "python")}
        if isa:
            environment["DROPCORE_ISA"] = isa
            others = f"not ({' or '.join(other for other in ISAS if other != isa)})"
            if "-k" in command:
                place = command.index("-k") + 1
                command[place] = f"({command[place]}) and {others}"
            else:
                command += ["-k", others]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            return "caught", f"no end within {LIMIT} s", arguments
        if done.returncode == 0:
            if not re.search(r"\b\d+ passed", done.stdout):
                return "broken", "no test ran", ()
            return "passed", "", ()
        if done.returncode < 0:
            return "caught", f"crash, signal {-done.returncode}", arguments
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        if done.returncode == 1 and failed:
            return "caught", failed[1], (failed[1],)
        return "broken", f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}", ()


def available() -> set[str]:
    """The instruction sets that run here."""
    found: set[str] = set()
    for isa in ISAS:
        done = subprocess.run(
            [sys.executable, "-c", "import dropcore; print(dropcore.build_info()['isa'])"],
            env=os.environ | {"DROPCORE_ISA": isa, "PYTHONPATH": str(ROOT / "python")},
            capture_output=True,
            text=True,
        )
        if done.stdout.strip() == isa:
            found.add(isa)
    if not found:
        sys.exit(f"mutants: dropcore does not run here; is it built?\n{done.stderr}")
    return found


class Run:
    """All faults, parted among workers."""

    def __init__(self, faults: list[Fault], isas: set[str]) -> None:
        self.left: queue.SimpleQueue[Fault] = queue.SimpleQueue()
        self.bad: list[str] = []
        self.caught = self.skipped = 0
        self.clean: dict[tuple[tuple[str, ...], str], tuple[str, str]] = {}  # without a fault
        self.lock = threading.Lock()
        for fault in faults:
            if fault.compiled and fault.isa not in isas:
                self.skipped += 1
            else:
                self.left.put(fault)

    def report(self, fault: Fault, fate: str, by: str, seconds: float) -> None:
        """Print the fate of a fault."""
        line = f"{fate:8} {fault.file}: {fault.what}"
        with self.lock:
            print(f"{line}\n         {by} ({seconds:.0f} s)", flush=True)
            if fate == "caught":
                self.caught += 1
            else:
                self.bad.append(f"{line} {by}")

    def one(self, tree: Tree, fault: Fault) -> None:
        """Plant a fault, run its tests until one fails, and remove it.

        It is found if the test that failed passes without it.
        """
        start = time.monotonic()
        isa = fault.isa if fault.compiled else ""
        try:
            tree.plant(fault)
            for arguments in fault.runs:
                fate, by, suspects = tree.test(arguments, isa)
                if fate != "passed":
                    break
            else:
                fate, by, suspects = "SURVIVED", fault.tests, ()
        except RuntimeError as error:
            fate, by, suspects = "broken", str(error), ()
        tree.restore(fault)
        if fate == "caught":
            key = suspects, isa
            if key not in self.clean:
                self.clean[key] = tree.test(*key)[:2]
            if self.clean[key][0] != "passed":
                fate, by = "broken", f"without the fault: {self.clean[key][1]}"
        self.report(fault, fate, by, time.monotonic() - start)

    def work(self, tree: Tree) -> None:
        """What a worker does."""
        try:
            while True:
                try:
                    fault = self.left.get_nowait()
                except queue.Empty:
                    return
                self.one(tree, fault)
        except Exception as error:
            self.bad.append(f"a worker ended: {error!r}")
            raise


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="faults with this in their file or words")
    parser.add_argument("--list", type=Path, default=LIST)
    parser.add_argument("--check", action="store_true", help="only whether the list fits the tree")
    asked = parser.parse_args()
    faults = [f for f in read_list(asked.list) if asked.only in f"{f.file}: {f.what}"]
    wrong = [f"{fault.file}: {fault.what}: {why}" for fault in faults if (why := stale(fault))]
    if wrong or not faults:
        print("the list is stale:", *wrong or ["no fault is left"], sep="\n")
        return 1
    if asked.check:
        print(f"{len(faults)} faults fit the tree")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        run = Run(faults, available())
        first = Tree(Path(temporary, "0"), any(fault.compiled for fault in faults))
        trees = [first] + [
            first.copied(Path(temporary, str(i))) for i in range(1, min(asked.workers, len(faults)))
        ]
        workers = [threading.Thread(target=run.work, args=(tree,)) for tree in trees]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    print(f"\n{run.caught} faults caught, {run.skipped} skipped, {len(run.bad)} not caught")
    print(*run.bad, sep="\n")
    return 1 if run.bad or run.caught + run.skipped < len(faults) else 0


if __name__ == "__main__":
    sys.exit(main())
