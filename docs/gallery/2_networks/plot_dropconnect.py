"""
DropConnect: weights instead of units
=====================================

Dropout sets outputs of a layer to 0, DropConnect single weights. Every unit then sums another
selection of its inputs, and the sum is nearly normal. At inference this gives a choice: the mean of
all weights, or the mean over that normal distribution (Wan et al. 2013).
"""

# %%
# A network with one layer of DropConnect learns 800 digits. Each sample of a batch has its own mask
# of 64 * 128 weights, which is drawn inside the matrix product and never stored.

import numpy as np
from sklearn.datasets import load_digits

from dropcore.nn import Dense, DropConnect, Sequential

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
x, y, x_test, y_test = images[:800], labels[:800], images[800:], labels[800:]

model = Sequential([DropConnect(128, 0.5, activation="relu"), Dense(10)])
model.fit(x, y, epochs=30, loss="softmax_cross_entropy", key=0, progress=False)
layer = model.layers[0]
for inference in ("mean", "gaussian"):
    layer.inference = inference
    found = model.evaluate(x_test, y_test)
    print(f"{inference:<9} test accuracy {found['accuracy']:.3f}, loss {found['loss']:.3f}")

# %%
# For one image, 2000 masks give 2000 values of each unit before its ReLU. The formula gives their
# mean and their variance without any mask: the bias and x @ w, and rate / keep * x**2 @ w**2.

before_relu = DropConnect(128, 0.5)
before_relu.build((64,), key=0)
before_relu.load_params(layer.params)
many = np.repeat(x_test[:1], 2000, axis=0)  # each row has its own mask
sums = before_relu(many, key=1)
w, b = layer.params["weight"], layer.params["bias"]
mean = x_test[0] @ w + b
std = np.sqrt(layer.rate / layer.keep * (x_test[0] ** 2 @ w**2))
print(f"largest difference of the means: {np.abs(sums.mean(axis=0) - mean).max():.3f}")
print(f"of the standard deviations: {np.abs(sums.std(axis=0) - std).max():.3f}")

# %%
# Three units: one that is mostly off after the ReLU, one at the border, and one that is mostly on.
# The ReLU of the mean is 0 for the second, though it is on in half of the networks. The Gaussian
# takes that into account.

import matplotlib.pyplot as plt

order = np.argsort(mean / std)
at = np.searchsorted((mean / std)[order], [-1.5, -0.1, 1.5])
figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.2), layout="constrained", sharey=True)
for ax, unit in zip(axes, order[at]):
    grid = np.linspace(mean[unit] - 4 * std[unit], mean[unit] + 4 * std[unit], 200)
    normal = np.exp(-(((grid - mean[unit]) / std[unit]) ** 2) / 2) / std[unit] / np.sqrt(2 * np.pi)
    ax.hist(sums[:, unit], bins=40, density=True, color="#56B4E9", label="2000 masks")
    ax.plot(grid, normal, color="#D55E00", label="Gaussian")
    ax.axvline(0, color="black", linewidth=1, linestyle=":")
    on = np.maximum(sums[:, unit], 0).mean()
    ax.set_title(f"unit {unit}: ReLU is {on:.2f}\non average", loc="left", fontsize="medium")
    ax.set_xlabel("input of the ReLU")
axes[0].set_ylabel("density")
axes[1].legend(loc="upper center")
plt.show()
