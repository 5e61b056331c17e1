"""
Calibration: does 90 % mean 90 %?
=================================

Of 100 predictions with a confidence of 0.9, 90 should be right. Networks that have memorised
their training data are too sure. A reliability diagram shows by how much, and one number, the
temperature, corrects it.
"""

# %%
# A network without dropout, trained for long on 300 digits with noise in their pixels. 700 other
# digits fit the temperature, the rest tests.

import numpy as np
from sklearn.datasets import load_digits

from dropcore import nn, plotting, uncertainty

images, labels = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
images = (images / 16 + rng.normal(0, 0.4, images.shape)).astype(np.float32)
order = rng.permutation(len(images))
train, held_out, test = order[:300], order[300:1000], order[1000:]


def trained(rate):
    model = nn.mlp((128, 128), 10, rate=rate)
    model.fit(
        images[train],
        labels[train],
        epochs=60,
        loss="softmax_cross_entropy",
        key=0,
        progress=False,
    )
    return model


plain, thinned = trained(0), trained(0.5)

# %%
# Four ways to a probability: one pass, one pass with logits divided by the temperature, and the
# same network trained with dropout, as one pass and as a mean over 50 masks.

logits = plain.predict(images[test])
temperature = uncertainty.fit_temperature(plain.predict(images[held_out]), labels[held_out])
probabilities = {
    "without dropout": uncertainty.probabilities(logits),
    f"temperature {temperature:.1f}": uncertainty.probabilities(logits, temperature=temperature),
    "dropout 0.5, one pass": thinned.predict_proba(images[test]),
    "dropout 0.5, 50 masks": uncertainty.sample(thinned, images[test], key=0, samples=50).mean,
}
for name, found in probabilities.items():
    accuracy = np.mean(found.argmax(axis=1) == labels[test])
    quality = uncertainty.log_likelihood(found, labels[test])
    print(f"{name:<22} accuracy {accuracy:.3f}, log likelihood {quality:.3f}")

# %%
# Points below the diagonal are predictions that are right less often than they claim. Their error
# bars are standard errors, and grey is the share of the predictions. The expected calibration error
# (ECE) is the mean distance from the diagonal. A mean over masks is less sure than a single pass,
# and needs a temperature of its own: ``sample(..., temperature=)``.

import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 2, figsize=(8, 7), layout="constrained")
for ax, (name, found) in zip(axes.flat, probabilities.items()):
    diagram = uncertainty.reliability(found, labels[test])
    plotting.reliability_diagram(diagram, ax=ax)
    ax.get_legend().remove()
    ax.set_title(f"{name}: ECE {diagram.ece:.3f}", loc="left", fontsize="medium")
plt.show()

# %%
# :doc:`/uncertainty` has the same for numbers, and what each score means.
