"""Train a small network from arrays, with dropout and max-norm: ``python quickstart.py``."""

import numpy as np

from dropcore.constraints import MaxNorm
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import SGD

# Two noisy spirals, 400 points to learn from and 800 to test on.
rng = np.random.default_rng(0)
labels = rng.integers(0, 2, 1200)
angle = rng.uniform(0.5, 3.0, 1200) * np.pi
spiral = np.stack([np.cos(angle + np.pi * labels), np.sin(angle + np.pi * labels)], axis=1)
x = (spiral * angle[:, None] / 9 + rng.normal(0, 0.06, (1200, 2))).astype(np.float32)

model = Sequential(
    [
        Dense(128, activation="relu", constraint=MaxNorm(4.0)),
        Dropout(0.2),
        Dense(128, activation="relu", constraint=MaxNorm(4.0)),
        Dropout(0.2),
        Dense(2),
    ]
)
# The key's seed decides weights, order and masks: the same key, the same run, on any machine.
history = model.fit(
    x[:400],
    labels[:400],
    epochs=150,
    optimizer=SGD(0.05, momentum=0.9),
    loss="softmax_cross_entropy",
    key=7,
    validation_data=(x[400:], labels[400:]),
)
print(f"validation accuracy {history['val_accuracy'][-1]:.3f}")
print(f"five predictions {model.predict(x[400:405]).argmax(axis=-1)}, labels {labels[400:405]}")
