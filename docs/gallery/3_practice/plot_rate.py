"""
Which rate?
===========

``sensitivity`` trains a network at each rate of a grid, with cross-validation, and says what
follows. Two rates are compared on the same rows, with the same initial weights and nested masks, so
that small differences show.
"""

# %%
# 500 digits of scikit-learn, and a fifth of the labels wrong.

import numpy as np
from sklearn.datasets import load_digits

from dropcore import nn, plotting, tuning

images, labels = load_digits(return_X_y=True)
x = (images[:500] / 16).astype(np.float32)
rng = np.random.default_rng(0)
wrong = rng.random(500) < 0.2
y = np.where(wrong, (labels[:500] + rng.integers(1, 10, 500)) % 10, labels[:500])

result = tuning.sensitivity(
    lambda keep: nn.mlp((128, 128), 10, keep=keep),
    x,
    y,
    keeps=(1.0, 0.8, 0.65, 0.5, 0.35, 0.2),
    epochs=30,
    folds=4,
    loss="softmax_cross_entropy",
    progress=False,
)
print(result)

# %%
# The curve has its standard error, and marks the region in which no keep is clearly better than
# another. It is measured with the noisy labels too: about a fifth of them cannot be predicted.

import matplotlib.pyplot as plt

figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
plotting.sensitivity_curve(result, ax=ax)
plt.show()

# %%
# Whether dropout helps at all is the paired difference to keep = 1, with its standard error over
# the folds:

print(result.compare(result.best))

# %%
# :doc:`/tuning` says how the verdict is found, and how to search for width and learning rate too.
