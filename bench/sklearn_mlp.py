"""DropoutClassifier and DropoutRegressor beside scikit-learn's MLPClassifier and MLPRegressor.

Five data sets that come with scikit-learn, standardised, in float32 for both. Every network has the
same hidden layers, batches, solver (Adam) and number of epochs, 200 as by default. Ours trains
under dropout of the hidden layers, scikit-learn's without any.

Times are those of `fit`, taking turns there and back (A B C C B A) in one process: medians in
milliseconds and, in brackets, minima. Pauses between turns let the threads of the other library's
pool come to rest. scikit-learn's products are those of NumPy's BLAS, whose threads are reported.

Scores are the mean over repeated cross-validation, and the standard error of the mean difference
over the folds: accuracy, or R^2 with y standardised.

    python bench/sklearn_mlp.py [--rounds 3] [--epochs 200] [--hidden 100] [--rate 0.5]
                                [--repeats 3] [--sets iris wine ...] [--threads N]

With DROPCORE_BENCH_TINY=1 it makes two epochs and one round.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from statistics import median
from time import perf_counter, sleep
from typing import Any

# NumPy's BLAS reads this when it is loaded: its threads wait actively for a millisecond or so.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "22")

import numpy as np
import sklearn
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from threadpoolctl import threadpool_info

import dropcore
from dropcore.sklearn import DropoutClassifier, DropoutRegressor

TINY = os.environ.get("DROPCORE_BENCH_TINY") == "1"

SETS: dict[str, Callable[..., Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "diabetes": datasets.load_diabetes,
}


def data_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features as float32; labels, or numbers of deviation 1."""
    x, y = SETS[name](return_X_y=True)
    return x.astype(np.float32), scale(y).astype(np.float32) if name == "diabetes" else y


def networks(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The candidates for a set, by name."""
    shared = {
        "hidden_layer_sizes": tuple(options.hidden),
        "max_iter": options.epochs,
        "n_iter_no_change": options.epochs,
        "tol": 0.0,
        "random_state": 0,
    }
    numbers = name == "diabetes"
    ours, theirs = (
        (DropoutRegressor, MLPRegressor) if numbers else (DropoutClassifier, MLPClassifier)
    )
    return {
        "dropcore": ours(rate=options.rate, **shared),
        "without dropout": ours(rate=0.0, **shared),
        "scikit-learn": theirs(**shared),
    }


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, all taking turns there and back."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls.items())
    for _, call in order:
        call()
    for _ in range(rounds):
        for name, call in [*order, *reversed(order)]:
            sleep(0.02)
            start = perf_counter()
            call()
            times[name].append(1e3 * (perf_counter() - start))
    return times


def scored(name: str, candidates: dict[str, Any], repeats: int) -> dict[str, np.ndarray]:
    """The score of each candidate on each fold, the same folds for all."""
    x, y = data_of(name)
    numbers = name == "diabetes"
    splits: Any = (RepeatedKFold if numbers else RepeatedStratifiedKFold)(
        n_splits=5, n_repeats=repeats, random_state=0
    )
    found = {}
    for candidate, network in candidates.items():
        steps = make_pipeline(StandardScaler(), network)
        if numbers:
            steps = TransformedTargetRegressor(steps, transformer=StandardScaler())
        found[candidate] = cross_val_score(steps, x, y, cv=splits)
    return found


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--hidden", type=int, nargs="+", default=[100])
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3, help="of the cross-validation; 0: none")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--threads", type=int, default=0, help="0: as dropcore decides")
    options = parser.parse_args(words)
    if TINY:
        options.rounds, options.epochs = 1, 2
    if options.threads:
        dropcore.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    blas = [f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpool_info()]
    print(
        f"scikit-learn {sklearn.__version__}, dropcore with {dropcore.get_num_threads()} threads "
        f"({dropcore.build_info()['isa']}); pools: {', '.join(blas)}\n"
        f"hidden layers {tuple(options.hidden)}, {options.epochs} epochs, rate {options.rate}\n"
    )
    print(f"{'':34}{'fit, ms':>22}{'times as fast':>19}{'score':>11}  against scikit-learn")
    for name in options.sets:
        x, y = data_of(name)
        x = StandardScaler().fit_transform(x)
        candidates = networks(name, options)
        times = timed(
            {c: lambda n=network: n.fit(x, y) for c, network in candidates.items()},  # noqa: B023
            options.rounds,
        )
        scores = scored(name, candidates, options.repeats) if options.repeats else {}
        peer = times["scikit-learn"]
        for candidate, found in times.items():
            line = f"{name:16}{candidate:18}{median(found):12.1f} ({min(found):7.1f})"
            line += f"{median(peer) / median(found):12.2f} ({min(peer) / min(found):5.2f})"
            if scores:
                gain = scores[candidate] - scores["scikit-learn"]
                error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
                line += f"{scores[candidate].mean():10.4f}  {gain.mean():+.4f} +- {error:.4f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
