"""
Four workers draw the mask of one
=================================

A batch is divided among workers: processes, machines or GPUs. A mask does not depend on how much
of it is drawn at once. Each worker draws the part for its rows from their position in the whole
batch, and together they have the mask that one worker would have drawn. Nothing is sent.
"""

# %%
# 64 samples with 48 features, divided into four parts of unequal size. ``offset`` is the index of
# a worker's first element in the whole batch.

import numpy as np

from dropcore import Key, Mask

rows, units, rate = 64, 48, 0.25
key = Key(2024, stream=1, step=500)
whole = Mask((rows, units), rate, key=key)

cuts = [0, 10, 32, 40, 64]
parts = [
    Mask((stop - start, units), rate, key=key, offset=start * units)
    for start, stop in zip(cuts, cuts[1:])
]
together = np.concatenate([part.to_bool() for part in parts])
print("the same mask:", np.array_equal(together, whole.to_bool()))

# %%
# A worker may also store its part or pass it on with one bit for each element. These rows begin at
# a multiple of eight elements, so that the bytes of the parts are those of the whole.

packed = np.concatenate([part.packed() for part in parts])
print("the same bytes:", np.array_equal(packed, whole.packed()))
print(f"{whole.size} elements in {packed.nbytes} bytes")

# %%
# The picture has a colour for each worker. Its light elements are dropped.

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

colours = np.array([to_rgb(c) for c in ("#0072B2", "#D55E00", "#009E73", "#CC79A7")])
worker = np.repeat(np.arange(4), np.diff(cuts))
strength = np.where(together, 1.0, 0.15)[..., None]
image = 1 - strength * (1 - colours[worker][:, None])

figure, ax = plt.subplots(figsize=(6, 6.4), layout="constrained")
ax.imshow(image, interpolation="nearest")
for start in cuts[1:-1]:
    ax.axhline(start - 0.5, color="black", linewidth=1)
middles = [(start + stop - 1) / 2 for start, stop in zip(cuts, cuts[1:])]
owners = ax.secondary_yaxis("right")
owners.set_yticks(middles, [f"worker {number}" for number in range(4)])
ax.set_xlabel("feature")
ax.set_ylabel("sample of the whole batch")
plt.show()

# %%
# Layers know their place: ``model.forward(x, key=key, row_offset=r)`` does the same for every
# dropout of a network, where r is the position of the first row of x.
