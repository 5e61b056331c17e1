"""What the sections of bench/gpu.py share: sizes, the clock and the list of sections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dropcore import Key
from dropcore.noise import normal

MI, GIB = 1 << 20, 1 << 30
KEEP = 0.5
KEY = Key(0x0123456789ABCDEF, stream=5, step=77)

Call = Callable[[], object]
Builders = dict[str, Callable[[], Call]]


class Absent(Exception):
    """A candidate cannot be measured here."""


@dataclass(frozen=True)
class Sizes:
    """How large things are: elements of flat arrays, sides of matrices."""

    flat: int = 512 * MI
    mask: int = 1024 * MI
    matrix: tuple[int, int] = (16384, 16384)
    epilogue: tuple[int, int] = (32768, 8192)
    attention: tuple[int, int, int, int] = (8, 16, 1024, 64)  # batch, heads, length, numbers
    layers: tuple[int, ...] = (784, 8192, 8192, 10)
    batches: tuple[int, ...] = (128, 1024)
    units: tuple[tuple[int, int], ...] = ((128, 4096), (1024, 4096), (128, 8192), (1024, 8192))
    parity: int = 4 * MI + 77
    product: tuple[int, int, int] = (96, 256, 160)  # of parity: rows, inputs, units
    scores: tuple[int, int, int, int] = (3, 4, 300, 32)  # of parity, as attention
    far: int = (1 << 32) + 1000  # an index beyond 32 bits
    rounds: int = 8
    turn: float = 4.0  # milliseconds that a turn lasts at least


SIZES = {
    "full": Sizes(),
    "quick": Sizes(
        flat=256 * MI, mask=256 * MI, matrix=(8192, 8192), epilogue=(16384, 8192), batches=(128,),
        units=((128, 4096),), parity=MI + 77, rounds=3, attention=(2, 16, 1024, 64),
    ),
    "tiny": Sizes(
        flat=3000, mask=3000, matrix=(30, 40), epilogue=(20, 30), layers=(12, 16, 16, 4),
        batches=(8,), units=((8, 32),), parity=3000, far=5000, rounds=1, turn=0.0,
        product=(33, 260, 35),  # a bit more than warps and blocks
        attention=(2, 2, 9, 4), scores=(3, 4, 35, 5),
    ),
}  # fmt: skip


class Clock:
    """Times by events on the device; every library here works on its default stream."""

    def __init__(self, xp: Any) -> None:
        self._cuda = xp.cuda

    def milliseconds(self, call: Call, repeats: int) -> float:
        """Of one call."""
        start, end = self._cuda.Event(), self._cuda.Event()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return float(self._cuda.get_elapsed_time(start, end)) / repeats


@dataclass
class Setting:
    """What a section is called with.

    Attributes
    ----------
    xp : module
        CuPy.
    clock : Clock
    sizes : Sizes
    deadline : float
        When, by `time.monotonic`, no section begins any more.
    found : dict
        What earlier sections leave for later ones: the rates of copying and reading.
    """

    xp: Any
    clock: Any
    sizes: Sizes
    deadline: float = float("inf")
    found: dict[str, float] = field(default_factory=dict)

    def numbers(self, *shape: int, dtype: Any = np.float32, seed: int = 1) -> Any:
        """Standard normal ones on the device."""
        drawn = normal(shape, key=seed, like=self.xp.zeros(1))
        return drawn if dtype == np.float32 else drawn.astype(dtype)

    def back(self, array: Any) -> np.ndarray:
        return array if isinstance(array, np.ndarray) else self.xp.asnumpy(array)


def bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def torch_on_device() -> Any:
    """PyTorch, or Absent."""
    try:
        import torch
    except ImportError as error:
        raise Absent(f"PyTorch cannot be imported: {error}") from error
    if not torch.cuda.is_available():
        raise Absent("PyTorch sees no device")
    return torch


SECTIONS: dict[str, Callable[[Setting], dict[str, Any]]] = {}


def section(run: Callable[[Setting], dict[str, Any]]) -> Callable[[Setting], dict[str, Any]]:
    """Put a function in the list of sections, under its name."""
    SECTIONS[run.__name__] = run
    return run


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
