"""What `fit` shows on a terminal, in a notebook and in a log file."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import sys
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dropcore.nn import Dense, Sequential
from dropcore.training._progress import Progress, in_notebook, in_short, progress_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 60)
METRICS = {"loss": 0.23456789, "accuracy": 0.75, "val_loss": 0.3, "val_accuracy": 0.875}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def trained(**options):
    model = Sequential([Dense(3)])
    model.fit(X, Y, loss="softmax_cross_entropy", validation_data=(X[:20], Y[:20]), **options)
    return model


def frames(text):
    """What a line of a terminal showed, one after the other."""
    return [frame for frame in re.split(r"[\r\n]", text) if frame.strip()]


# --- log files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_written_to_a_file_unasked(capsys, progress):
    trained(epochs=2, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_a_file_gets_a_line_for_each_epoch(capsys):
    model = trained(epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "\r" not in err
    lines = err.splitlines()
    assert len(lines) == 2
    history = model.training_state.history
    for number, line in enumerate(lines):
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        shown = ", ".join(f"{name} {history[name][number]:.4g}" for name in names)
        assert re.fullmatch(rf"epoch {number + 1}/2: {re.escape(shown)} \(\d+\.\d s\)", line)


def test_epochs_are_counted_on(capsys):
    model = trained(epochs=2, progress=False)
    model.fit(X, Y, epochs=3, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 3/5", "epoch 4/5", "epoch 5/5"]


def test_without_stderr_nothing_is_shown(monkeypatch):
    """As in a program with windows on Windows."""
    monkeypatch.setattr(sys, "stderr", None)
    for show in (None, True, False):
        assert type(progress_of(0, 1, 1, show)) is Progress
    trained(epochs=1, progress=True)


# --- terminals -----------------------------------------------------------------------------------


def test_a_terminal_shows_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    model = trained(epochs=3, progress=None)
    seen = frames(terminal.getvalue())
    assert seen[0].startswith("epoch 1/3   0%|")
    assert seen[-1].startswith("epoch 3/3 100%|")
    history = model.training_state.history
    last = {name: values[-1] for name, values in history.items() if name != "seconds"}
    assert seen[-1].rstrip().endswith(", " + in_short(last))
    assert terminal.getvalue().endswith("\n")


def test_a_terminal_is_left_alone_if_progress_is_false(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    trained(epochs=1, progress=False)
    assert terminal.getvalue() == ""


def read_to_the_end(descriptor):
    """What was written to the other end of a pseudo-terminal, once that is closed."""
    found = b""
    with os.fdopen(descriptor, "rb", 0) as reader, contextlib.suppress(OSError):  # EIO on Linux
        while part := reader.read(1 << 16):
            found += part
    return found


def test_the_line_fits_a_terminal_of_80_columns(monkeypatch):
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x19\x00\x50\x00" + bytes(4))
    monkeypatch.delenv("COLUMNS", raising=False)
    # Read meanwhile, since a terminal that is full makes the writer wait.
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(read_to_the_end, ours)
        with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            with progress_of(11, 9, 4, None) as progress:
                for epoch in range(12, 21):
                    progress.begin_epoch(epoch)
                    for _ in range(4):
                        progress.update(0.5)
                    progress.end_epoch(epoch, METRICS | {"seconds": 1.0})
            monkeypatch.undo()
    shown = frames(written.result().decode())
    assert max(map(len, shown)) <= 80
    assert shown[-1].startswith("epoch 20/20 100%|")
    assert shown[-1].rstrip().endswith("loss 0.235 val 0.3, accuracy 0.75 val 0.875")


def test_the_loss_so_far_is_shown_while_an_epoch_runs(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("tqdm.std.tqdm.update", lambda self, n=1: self.display() or True)
    with progress_of(0, 2, 3, None) as progress:
        progress.begin_epoch(1)
        for loss in (0.5, 0.25, 0.75):
            progress.update(loss)
        progress.end_epoch(1, METRICS)
        progress.begin_epoch(2)
        for loss in (7.0, np.array(9.0), 8.0):  # an array is not read: it may be on a device
            progress.update(loss)
    losses = [found[1] for found in re.finditer(r"loss ([\d.]+)", terminal.getvalue())]
    assert losses == ["0.5", "0.375", "0.235", "7", "7", "7.5"]
    assert (
        frames(terminal.getvalue())[-1]
        .rstrip()
        .endswith("loss 7.5 val 0.3, accuracy 0.75 val 0.875")
    )


def test_an_unknown_number_of_updates_is_counted(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_of(0, 1, None, None) as progress:
        progress.begin_epoch(1)
        for _ in range(5):
            progress.update(1.0)
        progress.end_epoch(1, {"loss": 1.0})
    assert "%" not in terminal.getvalue()
    assert re.search(r"epoch 1/1 5 updates, 00:00, loss 1 *\n$", terminal.getvalue())


def test_no_epochs_need_no_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    trained(epochs=0, progress=None)
    assert "updates" in terminal.getvalue()


def test_progress_is_true_false_or_none():
    model = Sequential([Dense(3)])
    with pytest.raises(TypeError, match=r"^progress must be True or False, got 'bar'"):
        model.fit(X, Y, epochs=1, progress="bar")
    assert not model.built


def test_the_bar_is_left_where_training_ended(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def stop(epoch, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(epochs=4, progress=None, callbacks=[stop])
    assert frames(terminal.getvalue())[-1].startswith("epoch 1/4  25%|")
    assert terminal.getvalue().endswith("\n")


# --- notebooks -----------------------------------------------------------------------------------


def notebook(monkeypatch):
    """Be in a notebook, whose stderr is no terminal; return the stream."""
    shell = types.SimpleNamespace(kernel=object(), config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("zmqshell"))
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_this_is_no_notebook():
    assert not in_notebook()


def test_ipython_on_a_terminal_is_no_notebook(monkeypatch):
    shell = types.SimpleNamespace(config={})
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    assert not in_notebook()


@pytest.mark.parametrize("progress", [None, True])
def test_a_notebook_without_ipywidgets_shows_a_bar_of_text(monkeypatch, progress):
    stream, find_spec = notebook(monkeypatch), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *package: None if name == "ipywidgets" else find_spec(name, *package),
    )
    for name in ("tqdm.auto", "tqdm.autonotebook"):  # imported anew they would warn
        monkeypatch.delitem(sys.modules, name, raising=False)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trained(epochs=2, progress=progress)
    assert not found
    seen = frames(stream.getvalue())
    assert seen[-1].startswith("epoch 2/2 100%|")
    assert "val" in seen[-1]


def test_a_notebook_with_ipywidgets_shows_their_bar(monkeypatch):
    """tqdm.auto is the bar of a notebook there."""
    made = []
    notebook(monkeypatch)

    class Bar:
        def __init__(self, **options):
            made.append(options)

        def update(self):
            return True

        def set_description_str(self, text, refresh):
            made.append(text)

        def set_postfix_str(self, text, refresh):
            made.append(text)

        def close(self):
            made.append("closed")

    monkeypatch.setitem(sys.modules, "ipywidgets", types.ModuleType("ipywidgets"))
    sys.modules["ipywidgets"].__spec__ = importlib.util.spec_from_loader("ipywidgets", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    model = trained(epochs=1, progress=None)
    assert made[0]["total"] == 2
    assert made[0]["desc"] == "epoch 1/1"
    history = model.training_state.history
    assert made[-2:] == [
        in_short({name: values[0] for name, values in history.items() if name != "seconds"}),
        "closed",
    ]


def test_a_notebook_is_left_alone_if_progress_is_false(monkeypatch):
    stream = notebook(monkeypatch)
    trained(epochs=1, progress=False)
    assert stream.getvalue() == ""
