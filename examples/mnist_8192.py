"""784-8192-8192-10 with dropout and max-norm on MNIST: the best such network of the dropout paper.

Srivastava et al. 2014, table 2: 0.95 % of the 10,000 test digits are wrong, without convolutions
and without knowing which pixels are neighbours. Trained as there: inputs kept at 0.8 and hidden
units at 0.5, max-norm with c = 2, momentum 0.95, a high and falling learning rate, all 60,000
digits.

    python examples/mnist_8192.py                       # on a GPU, for five minutes
    python examples/mnist_8192.py --device cpu --units 256 --epochs 3

On a GPU, CUPY_TF32=1 in the environment lets the products round their factors to TF32, which is
several times as fast. The digits come from OpenML through scikit-learn, or from the folder MNIST,
with the four original files, inside the folder that DROPCORE_DATA names.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from dropcore.constraints import MaxNorm
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import SGD
from dropcore.schedules import Cosine

PAPER, BATCH, CLASSES, TRAIN = 0.95, 128, 10, 60_000
IMAGES, LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"


def idx(path):
    """The array in one of the four original files."""
    data = gzip.decompress(path.read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def digits():
    """Images (n, 784) in [0, 1] as float32 and their labels: those to train on, those to test."""
    folder = Path(os.environ.get("DROPCORE_DATA", "")) / "MNIST"
    if "DROPCORE_DATA" in os.environ and folder.is_dir():
        read = [idx(folder / name.format(part)) for part in ("train", "t10k")
                for name in (IMAGES, LABELS)]  # fmt: skip
        x, y = np.concatenate(read[::2]), np.concatenate(read[1::2])
    else:
        from sklearn.datasets import fetch_openml

        try:
            x, y = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False)
        except OSError as error:
            sys.exit(f"OpenML cannot be reached ({error}): put the files where --help says")
    x, y = np.reshape(x, (len(x), -1)).astype(np.float32) / 255, np.asarray(y, np.int64)
    return x[:-10_000], y[:-10_000], x[-10_000:], y[-10_000:]


def network(units):
    """As in the paper; it prints c for unscaled training, which is what MaxNorm.paper takes."""
    first, other = MaxNorm.paper(2, keep=0.8), MaxNorm.paper(2, keep=0.5)
    return Sequential(
        [
            Dropout(0.2),
            Dense(units, activation="relu", constraint=first),
            Dropout(0.5),
            Dense(units, activation="relu", constraint=other),
            Dropout(0.5),
            Dense(CLASSES, constraint=other),
        ]
    )


def move(model, device):
    """Move the model; exit with what to do where there is no such device."""
    try:
        model.to(device)
    except (ImportError, RuntimeError) as error:
        sys.exit(f"{error}. Without a GPU: --device cpu --units 256")


def beside(model, array):
    """The array where the model is."""
    if model.device == "cpu":
        return array
    import cupy

    return cupy.asarray(array)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--units", type=int, default=8192, help="of both hidden layers")
    parser.add_argument(
        "--epochs", type=int, default=300, help="over which the learning rate falls"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no epoch after these")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate at the start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=TRAIN, help="to train on")
    options = parser.parse_args(arguments)

    model = network(options.units)
    move(model, options.device)
    x, y, x_test, y_test = (beside(model, array) for array in digits())
    x, y = x[: options.samples], y[: options.samples]
    updates = -(-len(x) // BATCH) * options.epochs
    optimizer = SGD(Cosine(options.rate, steps=updates), momentum=0.95)
    seconds = 0.0
    for epoch in range(1, options.epochs + 1):
        started = perf_counter()
        # A call of fit goes on where the last one stopped.
        history = model.fit(
            x, y, epochs=1, batch_size=BATCH, optimizer=optimizer, key=options.seed,
            loss="softmax_cross_entropy", progress=False, cuda_graph=options.device == "cuda",
        )  # fmt: skip
        seconds += perf_counter() - started
        error = 100 * (1 - model.evaluate(x_test, y_test)["accuracy"])
        print(
            f"epoch {epoch}, {seconds:.0f} s: loss {history['loss'][-1]:.4f}, test error "
            f"{error:.2f} % (the paper: {PAPER} %)",
            flush=True,
        )
        if seconds >= 60 * options.minutes:
            break
    return error


if __name__ == "__main__":
    main()
