"""Convolutions and windows of pooling of every kind."""

from __future__ import annotations

import numpy as np

from support.arrays import normal

# image, kernel, channels, maps, and what differs from the defaults
CONVOLUTIONS = {
    "1 x 1": ((5, 6), (1, 1), 3, 4, {}),
    "plain": ((6, 7), (3, 3), 5, 17, {}),
    "same": ((6, 7), (5, 3), 3, 16, {"padding": "same"}),
    "same, even kernel": ((6, 7), (4, 2), 2, 5, {"padding": "same"}),
    "same, stride": ((7, 9), (3, 4), 3, 5, {"padding": "same", "stride": (2, 3)}),
    "stride": ((9, 8), (3, 2), 1, 5, {"stride": 2}),
    "stride beyond the kernel": ((9, 10), (2, 1), 3, 5, {"stride": 3}),
    "a row is left over": ((8, 8), (3, 3), 4, 5, {"stride": 3}),
    "dilation": ((9, 8), (3, 2), 3, 5, {"dilation": (2, 3)}),
    "dilation and stride": ((11, 12), (3, 3), 3, 4, {"dilation": 2, "stride": (2, 4)}),
    "dilation 3, stride 2": ((11, 12), (3, 2), 3, 4, {"dilation": 3, "stride": 2, "padding": 2}),
    "sides": ((5, 4), (3, 3), 3, 5, {"padding": ((0, 2), (3, 1))}),
    "more padding than kernel": ((3, 2), (2, 2), 3, 5, {"padding": 4, "stride": 3}),
    "kernel beyond the image": ((3, 2), (5, 5), 3, 5, {"padding": 2}),
    "groups": ((5, 6), (3, 3), 6, 10, {"groups": 2, "padding": 1}),
    "depthwise": ((5, 6), (3, 3), 4, 8, {"groups": 4, "padding": 1}),
    "groups, all else": ((9, 8), (3, 2), 9, 6,
                         {"groups": 3, "stride": 2, "dilation": 2, "padding": ((1, 2), (0, 3))}),
    "depthwise, all else": ((9, 8), (3, 2), 17, 34, {"groups": 17, "stride": 2, "dilation": 2,
                                                     "padding": ((1, 2), (0, 3))}),
    "depthwise, one pixel": ((1, 1), (3, 3), 5, 5, {"groups": 5, "padding": 1}),
    "depthwise, stride beyond the kernel": ((9, 10), (2, 1), 9, 9, {"groups": 9, "stride": 3}),
    "depthwise, far apart": ((13, 12), (3, 3), 5, 5, {"groups": 5, "dilation": 5}),
    "small groups": ((6, 7), (3, 3), 24, 16, {"groups": 8, "padding": 1, "stride": (1, 2)}),
    "small groups, kernel beyond the image": ((3, 2), (5, 5), 6, 6, {"groups": 3, "padding": 2}),
    "long rows": ((4, 6), (3, 3), 33, 40, {"padding": 1}),
    "rows in pieces": ((4, 4), (2, 3), 130, 20, {"padding": "same"}),
    "a pixel in pieces": ((3, 4), (1, 1), 650, 5, {"stride": 2}),
    "groups in pieces": ((4, 5), (3, 2), 140, 6, {"groups": 2, "dilation": 2, "padding": 2}),
    "one output": ((4, 4), (4, 4), 2, 3, {}),
    "one pixel": ((1, 1), (3, 3), 2, 3, {"padding": 1}),
}  # fmt: skip

# image, size, stride, padding
WINDOWS = {
    "halves": ((6, 8), 2, None, "valid"),
    "rows are left over": ((7, 9), (2, 4), None, "valid"),
    "overlap": ((7, 6), 3, 1, "valid"),
    "overlap, padding": ((7, 6), 3, 2, 1),
    "gaps": ((9, 10), 2, (3, 4), "valid"),
    "same": ((7, 10), (3, 2), 2, "same"),
    "sides": ((5, 6), (3, 4), 2, ((2, 0), (1, 3))),
    "one": ((3, 4), 1, None, "valid"),
    "all of it": ((3, 4), (3, 4), None, "valid"),
    "large": ((9, 8), (7, 8), 1, 3),
}


def example_of(case, dtype=np.float32, batch=3):
    """An image, a kernel, a bias and the options of a case."""
    image, kernel, channels, maps, options = CONVOLUTIONS[case]
    groups = options.get("groups", 1)
    x = normal(batch, *image, channels, dtype=dtype)
    w = normal(*kernel, channels // groups, maps, dtype=dtype, seed=1)
    return x, w, normal(maps, dtype=dtype, seed=2), options
