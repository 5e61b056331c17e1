"""
What is wrong with this model?
==============================

``diagnose`` compares training and validation data, measures weights and activations, and says what
to change. Here it looks at a network that has memorised the labels of 300 digits.
"""

# %%
# A fifth of these labels are wrong, and nothing keeps the network from learning them.

import numpy as np
from sklearn.datasets import load_digits

from dropcore import nn, plotting
from dropcore.diagnosis import NormHistory, diagnose

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(images))
train, held_out = order[:300], order[300:]
noisy = labels.copy()
wrong = train[:60]
noisy[wrong] = (noisy[wrong] + rng.integers(1, 10, len(wrong))) % 10


def fitted(model, epochs):
    norms = NormHistory()
    model.fit(
        images[train],
        noisy[train],
        epochs=epochs,
        loss="softmax_cross_entropy",
        key=0,
        validation_data=(images[held_out], labels[held_out]),
        callbacks=[norms],
        progress=False,
    )
    return diagnose(
        model, images[train], noisy[train], validation=(images[held_out], labels[held_out]),
        norms=norms,
    )  # fmt: skip


plain = nn.mlp((256, 256), 10, rate=0)
found = fitted(plain, 60)

# %%
# ``print(found)`` shows scores, norms and activations too. Here is the advice alone.

from textwrap import fill

print(*(fill(advice, 88) for advice in found.advice), sep="\n\n")

# %%
# It recommends dropout. The same network with it:

better = nn.mlp((256, 256), 10, rate=0.5, input_rate=0.2)
after = fitted(better, 60)
for name, result in (("without dropout", found), ("with dropout", after)):
    print(f"{name:<16} validation accuracy {result.validation.metrics['accuracy']:.3f}")
print("advice:", *after.advice or ["none"])

# %%
# The curves of both. The training data is measured under dropout, and by the wrong labels.

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained", sharey=True)
for ax, model, name in zip(axes, (plain, better), ("without dropout", "with dropout")):
    plotting.learning_curves(model.training_state.history, metric="accuracy", ax=ax)
    ax.set_title(name, loc="left", fontsize="medium")
axes[0].set_ylim(0, 1)
plt.show()

# %%
# ``dropcore.report.write_report`` puts such pictures and the advice on a page, and so does the
# command ``dropcore report``. :doc:`/diagnosis` lists all that is measured and found.
