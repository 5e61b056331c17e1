"""
What a mask is
==============

A mask says which elements of an array live. Its own shape decides what is dropped together:
along an axis of length 1, all elements share one decision. One class therefore covers dropout of
single elements, of units, of neighbouring units and of whole samples.
"""

# %%
# Six masks for a batch of 12 samples with 24 features. Those with one rate drop a third.
# ``run=4`` lets four consecutive units share a decision, an array of rates gives each unit its own,
# and another step of the key gives another mask.

import numpy as np

from dropcore import Key, Mask

rows, units = 12, 24
rate = 1 / 3
masks = {
    "elements": Mask((rows, units), rate, key=7),
    "elements, the next step": Mask((rows, units), rate, key=Key(7, step=1)),
    "units": Mask((1, units), rate, key=7),
    "runs of four units": Mask((1, units), rate, key=7, run=4),
    "samples": Mask((rows, 1), rate, key=7),
    "elements, rates of 0 to 0.9": Mask((rows, units), np.linspace(0, 0.9, units), key=7),
}
for name, mask in masks.items():
    decisions, kept = np.prod(mask.drawn_shape), mask.to_bool().mean()
    print(f"{name:<28} {decisions:>3} decisions, {kept:.2f} of the elements are kept")

# %%
# With few decisions, the share that is kept may be far from two thirds. Here the masks are
# broadcast to the shape of the batch, as in NumPy.

import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap

figure, axes = plt.subplots(3, 2, figsize=(8, 6.4), layout="constrained", sharex=True, sharey=True)
for ax, (name, mask) in zip(axes.flat, masks.items()):
    drawn = np.broadcast_to(mask.to_bool(), (rows, units))
    ax.pcolormesh(drawn, cmap=ListedColormap(["#E6E6E6", "#0072B2"]), edgecolor="white")
    ax.set_title(f"{name}: shape {mask.shape}", loc="left", fontsize="medium")
axes[0, 0].set(yticks=[0, 4, 8, 12], ylim=(rows, 0))
figure.supxlabel("feature (blue: kept, grey: dropped)", fontsize="medium")
figure.supylabel("sample", fontsize="medium")
plt.show()

# %%
# ``dropout`` draws a mask and applies it in one pass. ``shared_axes`` names the axes along which
# decisions are shared. What is kept is multiplied by 1 / (1 - rate), so that the mean stays.

import dropcore

x = np.ones((rows, units), dtype=np.float32)
y = dropcore.dropout(x, rate, key=7, shared_axes=0)
print("the mask of units:", np.array_equal(y != 0, masks["units"].to_bool() & (x > 0)))
print("kept elements are now:", y.max())

# %%
# More about keys, shapes and rates: :doc:`/mask-contract`, and the reference of ``Mask``.
