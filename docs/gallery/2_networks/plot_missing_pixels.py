"""
Dropped inputs prepare for missing ones
=======================================

A network whose inputs are dropped while it learns cannot rely on a single one of them. Later it
copes better with inputs that are missing: broken sensors, gaps in a table, covered pixels.
"""

# %%
# Two networks learn 1000 digits. One of them never sees more than about 60 % of the pixels of an
# image.

import numpy as np
from sklearn.datasets import load_digits

from dropcore import Mask, nn

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
x, y, x_test, y_test = images[:1000], labels[:1000], images[1000:], labels[1000:]

models = {
    "all pixels": nn.mlp(256, 10, rate=0),
    "pixels dropped at 0.4": nn.mlp(256, 10, rate=0, input_rate=0.4),
}
for model in models.values():
    model.fit(x, y, epochs=30, loss="softmax_cross_entropy", key=0, progress=False)

# %%
# In the test, more and more pixels are set to 0. The masks come from one key: what is missing in
# one step is missing in all further ones.

missing = np.linspace(0, 0.8, 9)
gaps = [x_test * Mask(x_test.shape, rate, key=1).to_bool() for rate in missing]
accuracy = {
    name: [model.evaluate(gappy, y_test)["accuracy"] for gappy in gaps]
    for name, model in models.items()
}
for name, values in accuracy.items():
    print(f"{name:<22}", " ".join(f"{value:.3f}" for value in values))

# %%
# The robustness has its price: with all pixels there, the first network is somewhat better.

import matplotlib.pyplot as plt

figure, (top, bottom) = plt.subplots(
    2, figsize=(6.8, 5.6), layout="constrained", height_ratios=(1, 3)
)
row = np.concatenate([gappy[11].reshape(8, 8) for gappy in gaps], axis=1)
top.imshow(np.pad(row, 1), cmap="gray_r", extent=(-0.05, 0.85, 0, 0.1), aspect="auto")
top.set_yticks([])
top.set_title("a digit of the test, with these pixels missing", loc="left", fontsize="medium")
for values, marker, (name, colour) in zip(
    accuracy.values(), "os", zip(models, ("#D55E00", "#0072B2"))
):
    bottom.plot(missing, values, marker + "-", color=colour, label=f"trained with {name}")
bottom.set(xlabel="fraction of the pixels that is missing", ylabel="test accuracy", ylim=(0, 1))
bottom.set_xlim(top.get_xlim())
bottom.legend()
plt.show()
