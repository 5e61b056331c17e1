"""
One mask for a whole sequence
=============================

Recurrent networks forget if every time step drops other elements of their state: noise adds up over
the steps. Gal and Ghahramani (2016) draw one mask for a sequence and use it at every step, for the
inputs and for the state. ``LSTM(dropout=, recurrent_dropout=)`` does so.
"""

# %%
# Noisy waves of two, three or four periods, with two channels of pure noise beside them. The
# network is to count the periods, and has 200 sequences to learn from.

import matplotlib.pyplot as plt
import numpy as np


def waves(n, seed):
    rng = np.random.default_rng(seed)
    periods = rng.integers(2, 5, (n, 1))
    phase = rng.uniform(0, 2 * np.pi, (n, 1))
    signal = np.sin(2 * np.pi * periods * np.arange(40) / 40 + phase)
    x = rng.normal(size=(n, 40, 3))
    x[:, :, 0] = signal + 0.7 * x[:, :, 0]
    return x.astype(np.float32), periods[:, 0] - 2


x, labels = waves(200, seed=0)
held_out = waves(500, seed=1)

# %%
# The same LSTM with and without dropout. What `Dropout` drops after it is not part of the
# recurrence.

from dropcore.nn import LSTM, Dense, Dropout, Sequential
from dropcore.optim import Adam

histories = {}
for rate in (0.0, 0.25):
    model = Sequential([LSTM(32, dropout=rate, recurrent_dropout=rate), Dropout(rate), Dense(3)])
    histories[rate] = model.fit(
        x,
        labels,
        epochs=50,
        optimizer=Adam(5e-3),
        loss="softmax_cross_entropy",
        key=0,
        validation_data=held_out,
        progress=False,
    )
    last = {name: values[-1] for name, values in histories[rate].items()}
    print(
        f"rate {rate:<4} accuracy: training {last['accuracy']:.2f} under noise, "
        f"held out {last['val_accuracy']:.3f}"
    )

# %%
# Left: a mask of elements and the mask of a sequence, of 32 inputs at 40 steps. Right: the loss of
# the held-out sequences.

from dropcore import Mask

figure = plt.figure(figsize=(8.4, 4), layout="constrained")
axes = figure.subplot_mosaic([["steps", "loss"], ["sequence", "loss"]], width_ratios=(2, 3))
for name, shape in (("steps", (32, 40)), ("sequence", (32, 1))):
    kept = np.broadcast_to(Mask(shape, 0.25, key=0).to_bool(), (32, 40))
    axes[name].pcolormesh(kept, cmap="gray", vmin=-0.3, vmax=1)
    axes[name].set(ylabel="unit")
    axes[name].set_title(
        {"steps": "a mask of elements", "sequence": "one mask a sequence (white: kept)"}[name],
        loc="left", fontsize="medium",
    )  # fmt: skip
axes["steps"].tick_params(labelbottom=False)
axes["sequence"].set_xlabel("time step")
for (rate, history), colour in zip(histories.items(), ("#D55E00", "#0072B2")):
    name = f"rate {rate}" if rate else "without dropout"
    axes["loss"].plot(history.epochs, history["val_loss"], color=colour, label=name)
axes["loss"].set(xlabel="epoch", ylabel="held-out cross-entropy, nats", ylim=(0, None))
axes["loss"].legend()
plt.show()
