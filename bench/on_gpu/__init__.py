"""The sections of bench/gpu.py, in the order in which they run, and what runs them."""

from .parity import Checks
from .report import run, table
from .setting import SECTIONS, SIZES, Absent, Clock, Setting, Sizes
from .timing import fastest, interleaved, over, target

from . import passes, attending, training  # isort: skip  # which add their sections behind those of parity

__all__ = [
    "SECTIONS",
    "SIZES",
    "Absent",
    "Checks",
    "Clock",
    "Setting",
    "Sizes",
    "attending",
    "fastest",
    "interleaved",
    "over",
    "passes",
    "run",
    "table",
    "target",
    "training",
]
