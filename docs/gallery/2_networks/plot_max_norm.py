"""
Max-norm: a bound on incoming weights
=====================================

After each update, max-norm shortens the vector of a unit's incoming weights if it is longer than a
bound, and leaves all others as they are. Weights cannot grow without limit, however high the
learning rate is.
"""

# %%
# 600 digits, a fifth of their labels wrong, a high learning rate with momentum, and a network with
# dropout. ``NormHistory`` records the norms after each epoch.

import numpy as np
from sklearn.datasets import load_digits

from dropcore import nn
from dropcore.diagnosis import NormHistory
from dropcore.optim import SGD
from dropcore.schedules import Cosine

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(images))
train, test = order[:600], order[600:]
noisy = labels.copy()
wrong = train[:120]
noisy[wrong] = (noisy[wrong] + rng.integers(1, 10, len(wrong))) % 10

bound, epochs, batch = 1.0, 40, 32
optimizer = SGD(Cosine(0.05, steps=epochs * len(train) // batch), momentum=0.95)
models, norms = {}, {}
for name, max_norm in (("without a bound", None), ("max-norm 1", bound)):
    models[name] = nn.mlp((128, 128), 10, rate=0.5, input_rate=0.2, max_norm=max_norm)
    norms[name] = NormHistory()
    models[name].fit(
        images[train],
        noisy[train],
        epochs=epochs,
        batch_size=batch,
        optimizer=optimizer,
        loss="softmax_cross_entropy",
        key=0,
        callbacks=[norms[name]],
        progress=False,
    )
    found = models[name].evaluate(images[test], labels[test])
    print(f"{name:<16} test accuracy {found['accuracy']:.3f}, loss {found['loss']:.3f}")

# %%
# The incoming weights of a unit are a column of the weights (in, units), so that their norms run
# over the axis 0. On the left is their mean in each epoch, on the right the norms of all units of
# the second hidden layer at the end.

import matplotlib.pyplot as plt

layer = "3.weight"
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for (name, model), colour in zip(models.items(), ("#D55E00", "#0072B2")):
    left.plot(norms[name].epochs, norms[name].mean[layer], color=colour, label=name)
    lengths = np.linalg.norm(model.params[layer], axis=0)
    right.hist(lengths, bins=np.arange(0.475, 2.5, 0.05), color=colour, alpha=0.8, label=name)
left.axhline(bound, color="black", linewidth=1, linestyle=":")
right.axvline(bound, color="black", linewidth=1, linestyle=":", label="the bound")
left.set(xlabel="epoch", ylabel="mean norm of incoming weights", ylim=(0, None))
right.set(xlabel="norm of incoming weights", ylabel="units")
left.legend()
right.legend()
plt.show()

# %%
# The function behind it takes any array. The bound holds for the weights as they are stored. For
# the bound of a paper that trains without the factor 1 / keep, use ``MaxNorm.paper``.

import dropcore
from dropcore.constraints import MaxNorm

weights = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
print(np.linalg.norm(weights, axis=0).round(2))
dropcore.max_norm_(weights, 7.5, axis=0)
print(np.linalg.norm(weights, axis=0).round(2))
print(MaxNorm.paper(4.0, keep=0.5))
