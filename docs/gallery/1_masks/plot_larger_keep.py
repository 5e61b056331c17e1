"""
A larger keep keeps more of the same
====================================

Each element has a number between 0 and 1 that depends on the key and on its place alone, and it is
kept where that number is below the fraction to keep. With one key, what is kept at 0.3 is
therefore also kept at 0.6. Two networks that differ in their rate can be compared without the luck
of two independent masks.
"""

# %%
# The masks of one key at nine fractions:

import numpy as np

from dropcore import Mask

keeps = np.arange(1, 10) / 10
masks = [Mask((16, 32), keep=keep, key=3).to_bool() for keep in keeps]
nested = all((small <= large).all() for small, large in zip(masks, masks[1:]))
print("each mask contains the ones before it:", nested)

# %%
# Added up, they show for each element the smallest of these fractions at which it is kept.
#
# Two keys share no decisions beyond chance. Of the elements that one mask keeps at 0.3, the lower
# panel shows how many another mask keeps: all of them with the same key and a larger keep, and only
# its own fraction with another key.

import matplotlib.pyplot as plt

smallest = np.ones(masks[0].shape)  # the rest are kept at 1
for keep, kept in zip(keeps[::-1], masks[::-1]):
    smallest[kept] = keep

figure, (top, bottom) = plt.subplots(
    2, figsize=(7, 6.2), layout="constrained", height_ratios=(3, 2)
)
ten_colours = plt.get_cmap("cividis_r", 10)
mesh = top.pcolormesh(smallest, cmap=ten_colours, vmin=0.05, vmax=1.05, edgecolor="white")
top.invert_yaxis()
top.set(xlabel="unit", ylabel="sample")
figure.colorbar(mesh, ax=top, label="smallest keep\nthat keeps it", ticks=[*keeps, 1])

large = (200, 500)
first = Mask(large, keep=0.3, key=3).to_bool()
for key, label in ((3, "the same key"), (4, "another key")):
    shares = [Mask(large, keep=keep, key=key).to_bool()[first].mean() for keep in keeps]
    bottom.plot(keeps, shares, "o-", label=label)
bottom.set(
    xlabel="keep of the second mask", ylabel="share of the first,\nkeep = 0.3, that it keeps"
)
bottom.set_ylim(0, 1.05)
bottom.legend()
plt.show()

# %%
# :doc:`/mask-contract` defines that number, bit by bit.
