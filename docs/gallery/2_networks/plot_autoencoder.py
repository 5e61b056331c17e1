"""
Dropout makes activations sparse
================================

An autoencoder learns to give back its input. Without dropout, a hidden unit is on for nearly every
image or for none. Where any of them may be missing, a unit cannot count on the others to correct
it, and learns to answer to some of the images only (Srivastava et al. 2014, section 7.2).
"""

# %%
# 1500 digits, and two autoencoders of 128 hidden units with ReLU.

import numpy as np
from sklearn.datasets import load_digits

from dropcore import nn

images = (load_digits().images / 16).reshape(-1, 64).astype(np.float32)
x, x_test = images[:1500], images[1500:]

models = {
    "without dropout": nn.autoencoder(128, 64, rate=0),
    "with dropout of 0.5": nn.autoencoder(128, 64, rate=0.5),
}
activations = {}
for name, model in models.items():
    model.fit(x, x, epochs=60, loss="mse", key=0, progress=False)
    activations[name] = model.layers[0](x_test)  # after the ReLU, without noise
    error = model.evaluate(x_test, x_test)["loss"]
    print(
        f"{name:<20} {np.mean(activations[name] > 0):.2f} of the activations are above 0, "
        f"squared error {error:.4f}"
    )

# %%
# Left: all activations on the test images. Right: in how many of these images each unit is on. The
# price is the reconstruction, which is less exact.

import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for (name, values), colour, hatch in zip(activations.items(), ("#D55E00", "#0072B2"), ("", "//")):
    bins = np.linspace(0, 2.5, 26)
    left.hist(values.ravel(), bins, density=True, color=colour, alpha=0.6, hatch=hatch, label=name)
    right.plot(np.sort((values > 0).mean(axis=0)), color=colour, label=name)
left.set(xlabel="activation", ylabel="density")
right.set(xlabel="hidden unit, sorted", ylabel="share of the images in which it is on", ylim=(0, 1))
left.legend()
right.legend()
plt.show()
