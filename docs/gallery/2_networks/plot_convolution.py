"""
Dropout of whole feature maps
=============================

Neighbours in a feature map say nearly the same. If single elements are dropped, their neighbours
give the information away. Spatial dropout drops whole maps, and block dropout squares of
neighbours (Tompson et al. 2015; Ghiasi et al. 2018).
"""

# %%
# The same four maps under each kind of dropout, at a rate of 0.3. A layer that is called with a key
# shows what it does in that step of training.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from dropcore.nn import BlockDropout, Dropout, SpatialDropout2D

flower = load_sample_image("flower.jpg")[60:380:5, 180:500:5].mean(axis=2) / 255
flower = flower.astype(np.float32)
edges = [np.gradient(flower, axis=axis) for axis in (0, 1)]
maps = np.stack([flower, 1 - flower, *(0.5 + 2 * edge for edge in edges)], axis=-1)[None]

kinds = {
    "Dropout": Dropout(0.3),
    "SpatialDropout2D": SpatialDropout2D(0.3),
    "BlockDropout": BlockDropout(0.3, block_size=9),
}
figure, axes = plt.subplots(3, 4, figsize=(7.2, 5.8), layout="constrained")
for number, ax in enumerate(axes[0]):
    ax.set_title(f"map {number}", fontsize="medium")
for row, (name, layer) in zip(axes, kinds.items()):
    noisy = layer(maps, key=11)
    kept = np.mean(noisy[maps != 0] != 0)
    for number, ax in enumerate(row):
        ax.imshow(np.ma.masked_equal(noisy[0, :, :, number], 0), cmap="gray")
        ax.set_facecolor("#D55E00")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"{name}\n{kept:.0%} kept")
figure.suptitle("dropped elements are orange", fontsize="medium")
plt.show()

# %%
# A small convolutional network for 500 digits, a fifth of whose labels are wrong.

from sklearn.datasets import load_digits

from dropcore.nn import Conv2D, Dense, Flatten, MaxPool2D, Sequential

images, labels = load_digits(return_X_y=True)
images = (images / 16).reshape(-1, 8, 8, 1).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(images))
train, test = order[:500], order[500:]
noisy = labels.copy()
wrong = train[:100]
noisy[wrong] = (noisy[wrong] + rng.integers(1, 10, len(wrong))) % 10


def network(rate, spatial_rate):
    return Sequential(
        [
            Conv2D(16, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            SpatialDropout2D(spatial_rate),
            Conv2D(32, 3, padding="same", activation="relu"),
            MaxPool2D(2),
            SpatialDropout2D(spatial_rate),
            Flatten(),
            Dense(128, activation="relu"),
            Dropout(rate),
            Dense(10),
        ]
    )


print(network(0.5, 0.1).summary((8, 8, 1)))

# %%
# A tenth of the maps is dropped, and half of the hidden units. Without dropout the test error rises
# when the network begins to learn the wrong labels.

runs = {}
for name, rates in {"without dropout": (0, 0), "with dropout": (0.5, 0.1)}.items():
    runs[name] = network(*rates).fit(
        images[train],
        noisy[train],
        epochs=40,
        loss="softmax_cross_entropy",
        key=0,
        validation_data=(images[test], labels[test]),
        progress=False,
    )
    print(f"{name:<16} test error {1 - runs[name]['val_accuracy'][-1]:.3f} after the last epoch")

figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for (name, history), colour in zip(runs.items(), ("#D55E00", "#0072B2")):
    ax.plot(history.epochs, 100 - 100 * np.array(history["val_accuracy"]), color=colour, label=name)
ax.set(xlabel="epoch", ylabel="test error, %", ylim=(0, 40))
ax.legend()
plt.show()
