"""A small convolutional network on scikit-learn's digits, with and without dropout.

Needs scikit-learn. The digits are 8 x 8 pixels; 500 of them train, the others test.
"""

import numpy as np
from sklearn.datasets import load_digits

from dropcore.constraints import MaxNorm
from dropcore.nn import Conv2D, Dense, Dropout, Flatten, MaxPool2D, Sequential, SpatialDropout2D
from dropcore.optim import SGD
from dropcore.schedules import Cosine

EPOCHS, BATCH, TRAIN = 60, 50, 500


def network(rate):
    """Without dropout where the rate is 0."""
    return Sequential(
        [
            Conv2D(32, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            SpatialDropout2D(rate / 2),
            Conv2D(64, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            SpatialDropout2D(rate / 2),
            Flatten(),
            Dense(256, activation="relu", constraint=MaxNorm(2.0)),
            Dropout(rate),
            Dense(10),
        ]
    )


def main():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:TRAIN], order[TRAIN:]
    print(network(0.5).summary(x.shape[1:]))
    optimizer = SGD(Cosine(0.05, steps=EPOCHS * TRAIN // BATCH), momentum=0.9)
    for rate in (0.0, 0.5):
        errors = []
        for seed in range(3):
            model = network(rate)
            model.fit(
                x[train], y[train], epochs=EPOCHS, batch_size=BATCH, optimizer=optimizer,
                loss="softmax_cross_entropy", key=seed, progress=False,
            )  # fmt: skip
            errors.append(100 * (1 - model.evaluate(x[test], y[test])["accuracy"]))
        print(f"dropout {rate}: test error {np.mean(errors):.2f} % of {len(errors)} seeds")


if __name__ == "__main__":
    main()
