"""What dropout is good for, in a minute: few data, and a fifth of the labels wrong.

The same network learns scikit-learn's digits with and without dropout and max-norm. It has enough
weights to memorise the wrong labels, and does so without dropout.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dropcore._base.generators import DATA, generator
from dropcore.constraints import MaxNorm
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import SGD
from dropcore.plotting._style import BLUE, FAINT, INK, ORANGE, styled

__all__ = [
    "Curves",
    "check_output",
    "draw",
    "noisy_digits",
    "plain",
    "regularised",
    "run_demo",
    "train",
]

TRAIN: Final = 800
WRONG: Final = 0.2
UNITS: Final = 256
CLASSES: Final = 10
BATCH: Final = 100

WITHOUT: Final = "without dropout"
WITH: Final = "dropout + max-norm"
COLOURS: Final = {WITHOUT: ORANGE, WITH: BLUE}


def plain() -> Sequential:
    """Two hidden layers."""
    return Sequential(
        [Dense(UNITS, activation="relu"), Dense(UNITS, activation="relu"), Dense(CLASSES)]
    )


def regularised() -> Sequential:
    """The same with the settings of Srivastava et al. 2014: keep 0.8 and 0.5, c = 2."""
    after_input, after_hidden = MaxNorm.paper(2, keep=0.8), MaxNorm.paper(2, keep=0.5)
    return Sequential(
        [
            Dropout(keep=0.8),
            Dense(UNITS, activation="relu", constraint=after_input),
            Dropout(keep=0.5),
            Dense(UNITS, activation="relu", constraint=after_hidden),
            Dropout(keep=0.5),
            Dense(CLASSES, constraint=after_hidden),
        ]
    )


NAME: Final = "dropcore-demo.png"

NETWORKS: Final = {WITHOUT: plain, WITH: regularised}


@dataclass
class Curves:
    """One run of one network.

    Attributes
    ----------
    train, test : list of float
        Error after each epoch, as a fraction, without noise; `train` against the labels that the
        network was given.
    norms : ndarray of float64, shape (hidden units,)
        Norms of the incoming weights at the end.
    seconds : float
        Of training, without the evaluations.
    """

    train: list[float]
    test: list[float]
    norms: NDArray[np.float64]
    seconds: float


def noisy_digits(seed: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Split the digits, and replace a fifth of the training labels by another class at random.

    Returns
    -------
    x, y, x_test, y_test : ndarray
        Images (n, 64) in [0, 1] as float32, and their labels; those of the test are clean.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    rng = generator(seed, DATA)
    order = rng.permutation(len(images))
    train, test = order[:TRAIN], order[TRAIN:]
    y = labels[train].copy()
    wrong = rng.permutation(TRAIN)[: round(WRONG * TRAIN)]
    y[wrong] = (y[wrong] + rng.integers(1, CLASSES, len(wrong))) % CLASSES
    return images[train], y, images[test], labels[test]


def train(model: Sequential, seed: int, epochs: int, bar: Any) -> Curves:
    """Train on the noisy digits of a seed; both networks by the same optimiser."""
    x, y, x_test, y_test = noisy_digits(seed)
    optimizer = SGD(0.05, momentum=0.95)
    curves = Curves([], [], np.empty(0), 0.0)
    for _ in range(epochs):
        started = perf_counter()
        # A call of fit resumes from the last one.
        model.fit(
            x, y, epochs=1, batch_size=BATCH, optimizer=optimizer, loss="softmax_cross_entropy",
            key=seed, progress=False,
        )  # fmt: skip
        curves.seconds += perf_counter() - started
        curves.train.append(1 - model.evaluate(x, y)["accuracy"])
        curves.test.append(1 - model.evaluate(x_test, y_test)["accuracy"])
        bar.update()
    hidden = [w for name, w in model.params.items() if name.endswith("weight")][:-1]
    curves.norms = np.concatenate([np.sqrt(np.square(w, dtype=np.float64).sum(0)) for w in hidden])
    return curves


def check_output(output: Path) -> None:
    """Raise if `output` cannot be written or matplotlib has no such format.

    Raises
    ------
    ImportError
        If scikit-learn or matplotlib is missing.
    OSError
        If it is a directory, or its directory does not exist or is not writable.
    ValueError
        If matplotlib does not write files with that ending.
    """
    _expect_packages()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    formats = FigureCanvasAgg.get_supported_filetypes()
    folder = output.resolve().parent
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a directory: name a file, such as {output / NAME}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: {folder}")
    if not os.access(output if output.exists() else folder, os.W_OK):
        raise PermissionError(f"{output} cannot be written")
    if output.suffix.lower().removeprefix(".") not in formats:
        endings = ", ".join(f".{name}" for name in sorted(formats))
        raise ValueError(f"the file must end in one of {endings}, got {output.name!r}")


def _expect_packages() -> None:
    try:
        import matplotlib.figure  # noqa: F401
        import sklearn.datasets  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the demo needs scikit-learn and matplotlib: pip install 'dropcore[demo]'"
        ) from error


def run_demo(output: Path, *, epochs: int = 100, seeds: int = 3) -> dict[str, list[Curves]]:
    """Train both networks for every seed, print a table and draw the learning curves.

    Parameters
    ----------
    output : Path
        Of the picture to write, in the format of its ending.
    epochs, seeds : int

    Returns
    -------
    dict of str to list of Curves
        For each network one run per seed.

    Raises
    ------
    ImportError
        If scikit-learn or matplotlib is missing.
    """
    _expect_packages()
    started = perf_counter()
    print(
        f"{TRAIN} images of digits, {100 * WRONG:.0f} % of their labels wrong. "
        f"Two networks, {seeds} seed{'s' * (seeds > 1)}, "
        f"{epochs} epoch{'s' * (epochs > 1)}.\n"
    )
    runs: dict[str, list[Curves]] = {name: [] for name in NETWORKS}
    with tqdm(total=seeds * len(NETWORKS) * epochs, unit="epoch", disable=None, leave=False) as bar:
        for seed in range(seeds):
            for name, network in NETWORKS.items():
                curves = train(network(), seed, epochs, bar)
                runs[name].append(curves)
                tqdm.write(
                    f"seed {seed}  {name:<18}  test error {100 * curves.test[-1]:4.1f} %"
                    f"  in {curves.seconds:.1f} s"
                )
    print("\n" + table(runs))
    draw(runs, output)
    print(f"\nLearning curves: {output.resolve()}\n{perf_counter() - started:.0f} s in all")
    return runs


def table(runs: dict[str, list[Curves]]) -> str:
    """Results after the last epoch: means over the seeds, with the standard error."""
    lines = [
        f"{'':<18}  {'train error %':>13}  {'test error %':>13}  {'weight norm':>11}"
        f"  {'largest':>7}  {'seconds':>7}"
    ]
    for name, curves in runs.items():
        norms = np.array([c.norms for c in curves])
        lines.append(
            f"{name:<18}  {_percent([c.train[-1] for c in curves]):>13}"
            f"  {_percent([c.test[-1] for c in curves]):>13}"
            f"  {norms.mean():>11.2f}  {norms.max():>7.2f}"
            f"  {np.mean([c.seconds for c in curves]):>7.1f}"
        )
    without, regular = (sum(c.test[-1] for c in runs[name]) for name in (WITHOUT, WITH))
    several = len(runs[WITH]) > 1
    notes = [
        ("Mean +- standard error over the seeds; n" if several else "N")
        + "orms of the hidden units' incoming weights.",
        "A train error near 0 % means that the network has memorised the wrong labels, near "
        f"{100 * WRONG:.0f} % that it has not.",
    ]
    ratio = without / max(regular, 1e-9)
    if ratio >= 1.05:
        notes.append(f"Test errors are {ratio:.1f} times as frequent without dropout + max-norm.")
    else:
        notes.append("Dropout + max-norm has not lowered the test error: train for more epochs.")
    return "\n".join([*lines, "", *notes])


def draw(runs: dict[str, list[Curves]], output: Path) -> None:
    """Write a picture of train and test errors against the epochs: means and standard errors."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.6, 5.4), dpi=150)
    FigureCanvasAgg(figure)
    axes = styled(figure.add_axes((0.072, 0.115, 0.67, 0.72)))
    final: dict[tuple[str, str], float] = {}
    for name, curves in runs.items():
        for what in ("train", "test"):
            errors = 100 * np.array([getattr(c, what) for c in curves])
            mean, band = errors.mean(0), _standard_error(errors)
            epochs = np.arange(1, len(mean) + 1)
            axes.plot(
                epochs,
                mean,
                color=COLOURS[name],
                linewidth=2.4 if what == "test" else 1.3,
                linestyle="-" if what == "test" else (0, (4, 2)),
            )
            axes.fill_between(
                epochs, mean - band, mean + band, color=COLOURS[name], alpha=0.18, linewidth=0
            )
            final[name, what] = float(mean[-1])

    last = len(epochs)
    axes.set_xlim(1 if last > 1 else 0, last)
    top = max(32.0, 1.1 * max(final.values()))
    axes.set_ylim(0, top)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.axhline(100 * WRONG, color=FAINT, linewidth=1.4, linestyle=":", zorder=1)
    axes.text(
        last,
        100 * WRONG - 0.02 * top,
        f"{100 * WRONG:.0f} % of the training labels are wrong",
        color=FAINT,
        fontsize=10,
        ha="right",
        va="top",
    )
    axes.set_xlabel("epoch", fontsize=12)
    axes.set_ylabel("error, %", fontsize=12)
    axes.tick_params(labelsize=11)

    for ((name, what), value), height in zip(
        final.items(), _spread(list(final.values()), low=0.045 * top, apart=0.115 * top)
    ):
        axes.annotate(
            f"{what}, {name}\n{value:.1f} %",
            xy=(last, value),
            xytext=(1.02, height / top),
            textcoords="axes fraction",
            color=COLOURS[name],
            fontsize=11,
            fontweight="bold" if what == "test" else "normal",
            va="center",
            linespacing=1.25,
        )
    without, regular = final[WITHOUT, "test"], final[WITH, "test"]
    figure.text(
        0.072,
        0.935,
        f"Test error {without:.1f} % without dropout, {regular:.1f} % with it",
        fontsize=16,
        fontweight="bold",
        color=INK,
    )
    seeds = len(runs[WITH])
    figure.text(
        0.072,
        0.88,
        f"{TRAIN} images of digits to learn from, the same network and optimiser. "
        + (f"Mean of {seeds} seeds, band ± 1 standard error." if seeds > 1 else "One seed."),
        fontsize=11,
        color=FAINT,
    )
    figure.savefig(output)


def _percent(fractions: list[float]) -> str:
    error = _standard_error(np.array(fractions)[:, None])[0]
    spread = f" +- {100 * error:.1f}" if len(fractions) > 1 else ""
    return f"{100 * np.mean(fractions):.1f}{spread}"


def _standard_error(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the mean over the first axis; zero for a single value."""
    count = len(values)
    return values.std(0, ddof=1) / math.sqrt(count) if count > 1 else np.zeros(values.shape[1:])


def _spread(values: list[float], *, low: float, apart: float) -> list[float]:
    """Heights for labels: near their values, in the same order, but not on top of each other."""
    heights = [0.0] * len(values)
    floor = low
    for index in sorted(range(len(values)), key=values.__getitem__):
        heights[index] = max(values[index], floor)
        floor = heights[index] + apart
    return heights
