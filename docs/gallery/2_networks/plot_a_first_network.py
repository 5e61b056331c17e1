"""
A first network
===============

Two noisy spirals, and a network that learns where one ends and the other begins. A part of the
labels is wrong. Without dropout the network learns these as well, one by one.
"""

# %%
# 200 points to learn from, of which 15 % have the wrong label, and 4000 to test on.

import numpy as np


def spirals(n, wrong, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    angle = rng.uniform(0.5, 2.0, n) * np.pi
    spiral = np.stack([np.cos(angle + np.pi * labels), np.sin(angle + np.pi * labels)], axis=1)
    x = spiral * angle[:, None] / 3 + rng.normal(0, 0.2, (n, 2))
    labels = np.where(rng.random(n) < wrong, 1 - labels, labels)
    return x.astype(np.float32), labels


x, labels = spirals(200, wrong=0.15, seed=0)
x_test, labels_test = spirals(4000, wrong=0, seed=1)

# %%
# A network is a list of layers. The key decides the initial weights, the order of the points and
# the masks: the same key gives the same run.

from dropcore.nn import Dense, Dropout, Sequential


def network(rate):
    return Sequential(
        [
            Dense(128, activation="relu"),
            Dropout(rate),
            Dense(128, activation="relu"),
            Dropout(rate),
            Dense(2),
        ]
    )


models = {"without dropout": network(0.0), "with dropout of 0.3": network(0.3)}
for name, model in models.items():
    model.fit(
        x,
        labels,
        epochs=300,
        optimizer="adam",
        loss="softmax_cross_entropy",
        key=0,
        progress=False,
    )
    train, test = model.evaluate(x, labels), model.evaluate(x_test, labels_test)
    print(f"{name:<20} accuracy: training {train['accuracy']:.3f}, test {test['accuracy']:.3f}")

# %%
# The colour is the probability that a point belongs to the triangles, and the black line is where
# it is one half. Wrong points show as triangles among circles, and the other way round.

import matplotlib.pyplot as plt

side = np.linspace(-3, 3, 160, dtype=np.float32)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)

figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained", sharey=True)
for ax, (name, model) in zip(axes, models.items()):
    probability = model.predict_proba(grid)[:, 1].reshape(160, 160)
    mesh = ax.pcolormesh(side, side, probability, cmap="PuOr", vmin=0, vmax=1, shading="nearest")
    ax.contour(side, side, probability, [0.5], colors="black", linewidths=1)
    for label, marker, colour in ((0, "o", "#8C510A"), (1, "^", "#542788")):
        points = x[labels == label]
        ax.scatter(*points.T, s=18, marker=marker, color=colour, edgecolor="white", linewidth=0.5)
    ax.set_title(name, loc="left", fontsize="medium")
    ax.set_aspect("equal")
    ax.set_xlabel("first feature")
axes[0].set_ylabel("second feature")
figure.colorbar(mesh, ax=axes, label="probability of a triangle")
plt.show()

# %%
# :doc:`/networks` lists the layers, and what ``fit`` takes.
