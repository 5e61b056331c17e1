"""
How sure is a prediction?
=========================

A network with dropout is many thinned networks. Asked several times, each time with another mask,
they agree where there was data and disagree in between (Gal and Ghahramani 2016).
"""

# %%
# Points around a sine, with a gap in the middle. A quarter is held out to measure the noise.

import numpy as np

from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import Adam

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-2, -0.7, 150), rng.uniform(0.7, 2, 150)])[:, None]
y = np.sin(3 * x[:, 0]) + rng.normal(0, 0.15, 300)
order = rng.permutation(300)
train, held_out = order[:225], order[225:]


def network(shared_axes=()):
    return Sequential(
        [
            Dense(100, activation="relu"),
            Dropout(0.1, shared_axes=shared_axes),
            Dense(100, activation="relu"),
            Dropout(0.1, shared_axes=shared_axes),
            Dense(1),
        ]
    )


model = network()
model.fit(x[train], y[train], loss="mse", epochs=400, optimizer=Adam(3e-3), key=0, progress=False)

# %%
# ``noise_level`` is the standard deviation of the targets around the predictions, which no model
# could know better. ``intervals`` adds it to the spread of the networks.

from dropcore import uncertainty

noise = uncertainty.noise_level(model, x[held_out], y[held_out], key=0)
checked = uncertainty.intervals(model, x[held_out], key=0, noise=noise, level=0.9)
print(f"noise of the targets, as found: {noise:.2f}")
print(f"{checked.coverage(y[held_out]):.0%} of the held-out targets are inside their interval")

grid = np.linspace(-2.8, 2.8, 280)[:, None]
found = uncertainty.intervals(model, grid, key=0, noise=noise, samples=400, level=0.9)

# %%
# In training each point has a mask of its own. To draw the curve of a thinned network, all points
# must share one: a second network with ``shared_axes=0`` gets the weights of the first.

curves = network(shared_axes=0)
curves.build((1,), key=0, dtype=model.params["0.weight"].dtype)
curves.load_params(model.params)
thinned = curves.predict(grid, key=0, samples=25)

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
ax.fill_between(
    grid[:, 0], found.lower[:, 0], found.upper[:, 0], color="#CFE3F1", label="interval of 90 %"
)
lines = ax.plot(grid, thinned[:, :, 0].T, color="#0072B2", linewidth=0.6)
lines[0].set_label("thinned networks")
ax.plot(x[train, 0], y[train], ".", color="#333333", markersize=4, label="training data")
ax.plot(grid, np.sin(3 * grid), "--", color="#D55E00", linewidth=2, label="the true curve")
ax.set(xlabel="x", ylabel="y", ylim=(-3, 4))
ax.legend(ncols=2, loc="upper right")
plt.show()

# %%
# In the gap the networks go different ways, and the interval is wide. To the left and right of all
# data they do not know that the curve turns, and are surer than they should be: they have the same
# architecture and have seen the same points. Whether intervals can be relied upon, only data like
# that of the application can tell. See also :doc:`/uncertainty`.
