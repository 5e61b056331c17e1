"""A script: files are written where there is less room than they need, from none to enough.

    python full_disk.py disk|limit|read-only FOLDER

`disk` needs FOLDER to be a small file system of its own, which is filled; `limit` lowers how long a
file may become; `read-only` makes a mounted FOLDER refuse all. Each writer then raises OSError and
leaves the old file, or writes the new one; nothing else stays in the folder. Prints for each writer
the number of errors, as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

import dropcore
from dropcore.nn import Dense, Sequential
from dropcore.report import write_report
from dropcore.training import Checkpoint, CSVLog
from dropcore.tuning._results import Results

BLOCK = 4096
HOW, FOLDER = sys.argv[1], Path(sys.argv[2])
BALLAST = FOLDER / "ballast"
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, 30)).astype(np.float32), RNG.integers(0, 3, 48)
FIT = {"loss": "softmax_cross_entropy", "batch_size": 16, "progress": False, "key": 1}


def model_of(seed, units=60):
    model = Sequential([Dense(units, activation="relu"), Dense(3)])
    model.build((30,), key=seed)
    return model


# --- writers: each writes to a path what depends on whether it is the first time ------------------


def save(path, again):
    model_of(int(again)).save(path)


def save_weights(path, again):
    model_of(int(again)).save_weights(path)


def checkpoint(path, again):
    model_of(0).fit(X, Y, epochs=2 + again, callbacks=[Checkpoint(path)], **FIT)


def results(path, again):
    if not again:
        path.unlink(missing_ok=True)
    result = {"score": 0.5, "train_score": 0.75, "numbers": list(range(4000))}
    Results("a test", path, {"data": "these"}).add(str(again), result)


def report(path, again):
    model = model_of(0)
    model.fit(X, Y, epochs=1, **FIT)
    write_report(path, model, X, Y, title="again" if again else "first", max_samples=20)


WRITERS = {
    "save": save,
    "save weights": save_weights,
    "checkpoint": checkpoint,
    "results": results,
    "report": report,
}


class Room:
    """What is left for files: `blocks` of 4096 bytes."""

    def __init__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(self, blocks):
        if HOW == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (blocks * BLOCK, self.before[1]))
        elif HOW == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", FOLDER], check=True)
        else:
            free = os.statvfs(FOLDER)
            with BALLAST.open("wb") as file:
                file.write(bytes(max(0, free.f_bavail * free.f_frsize - blocks * BLOCK)))

    def lift(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)
        if HOW == "read-only":
            subprocess.run(["mount", "-o", "remount,rw", FOLDER], check=True)
        BALLAST.unlink(missing_ok=True)


def content(path):
    """What a file says, without the seconds that training took."""
    if path.name == "checkpoint":
        model = dropcore.load(path)
        return [model.training_state.step, *(a.tobytes() for a in model.params.values())]
    if path.name == "report":
        text = path.read_text(encoding="utf-8").rstrip()
        return [text.endswith("</html>"), text.partition("<title>")[2].partition("</title>")[0]]
    return path.read_bytes()


def replaced(name, write, room):
    """The number of errors until there is room enough."""
    path = FOLDER / name
    write(path, False)
    old = path.read_bytes()
    first = content(path)
    write(path, True)
    second = content(path)
    errors = 0
    for blocks in range(0, 400, 4 if name == "report" else 1):
        path.write_bytes(old)
        names = sorted(os.listdir(FOLDER))
        room.limit(blocks)
        try:
            write(path, True)
        except OSError:
            errors += 1
            allowed = [first] if name != "checkpoint" else [first, second]
            failed = True
        else:
            allowed, failed = [second], False
        finally:
            room.lift()
        assert content(path) in allowed, f"{name} with {blocks} blocks"
        assert sorted(os.listdir(FOLDER)) == names, f"{name} with {blocks} blocks"
        if HOW == "read-only" or not failed:
            break
    path.unlink()
    return errors


def logged(room):
    """A log gets whole lines only."""
    path, errors = FOLDER / "log.csv", 0

    def fit(epochs):
        model_of(0, 4).fit(X, Y, epochs=epochs, callbacks=[CSVLog(path, append=True)], **FIT)

    for size in range(0, 4 * BLOCK, 37):
        path.unlink(missing_ok=True)
        fit(1)
        whole = path.read_bytes()
        with path.open("ab") as file:  # so that the next line meets the end of a block
            line = whole.splitlines(keepends=True)[-1]
            file.write(line * ((size + BLOCK - 400) // len(line)))
        old = path.read_bytes()
        room.limit(1)
        try:
            fit(40)
        except OSError:
            errors += 1
        finally:
            room.lift()
        new = path.read_bytes()
        assert new.startswith(old) or HOW == "read-only"
        assert new.endswith(b"\n")
        assert {line.count(b",") for line in new.splitlines()} == {whole.count(b",") // 2}
        assert os.listdir(FOLDER) == [path.name]
        if HOW == "read-only" or size > 12 * 37:
            break
    path.unlink()
    return errors


if __name__ == "__main__":
    room, found = Room(), {}
    for name, write in WRITERS.items():
        found[name] = replaced(name, write, room)
    found["log"] = logged(room)
    print(json.dumps(found))
