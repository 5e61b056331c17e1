"""The address of a mask."""

from __future__ import annotations

import operator
import reprlib
from dataclasses import dataclass, field
from typing import Final

__all__ = ["MONTE_CARLO", "TRAINING", "Key"]

TRAINING: Final = 0
"""The domain of decisions while training."""

MONTE_CARLO: Final = 2
"""The domain of decisions in Monte Carlo prediction."""

DOMAINS: Final = (TRAINING, MONTE_CARLO)


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """The address of a mask: which seed, which dropout of a network, which update.

    A mask is a pure function of its key, its shape and its rate. Nothing is consumed by drawing:
    the same key gives the same mask on any machine, for any number of threads, at any time.

    Parameters
    ----------
    seed : int
        In [0, 2**64). Two seeds give unrelated masks.
    stream : int, default 0
        Which dropout of a network, in [0, 2**28).
    step : int, default 0
        Which update, in [0, 2**32).
    domain : int, default 0
        What the mask is for: 0 for training, 2 for Monte Carlo prediction, where `step` is the
        number of the sample.

    Raises
    ------
    TypeError
        If a field is not an integer.
    ValueError
        If a field is outside its range.

    Examples
    --------
    >>> key = Key(7)
    >>> key.at(stream=2, step=100)
    Key(seed=7, stream=2, step=100)
    """

    seed: int
    stream: int = 0
    step: int = 0
    domain: int = field(default=TRAINING, kw_only=True)

    def __post_init__(self) -> None:
        if (
            type(self.seed) is type(self.stream) is type(self.step) is type(self.domain) is int
            and 0 <= self.seed < 1 << 64
            and 0 <= self.stream < 1 << 28
            and 0 <= self.step < 1 << 32
            and self.domain in DOMAINS
        ):
            return
        object.__setattr__(self, "seed", _field("seed", self.seed, 64))
        object.__setattr__(self, "stream", _field("stream", self.stream, 28))
        object.__setattr__(self, "step", _field("step", self.step, 32))
        object.__setattr__(self, "domain", _field("domain", self.domain, 4))
        if self.domain not in DOMAINS:
            raise ValueError(
                f"Key: domain must be {TRAINING} (training) or {MONTE_CARLO} (Monte Carlo "
                f"prediction), got {self.domain}, which the mask contract reserves"
            )

    @classmethod
    def from_words(
        cls, low: int, high: int, stream: int = 0, step: int = 0, *, domain: int = TRAINING
    ) -> Key:
        """The key whose seed is two 32-bit words, as other generators store theirs.

        Parameters
        ----------
        low, high : int
            In [0, 2**32): ``seed = high * 2**32 + low``. Elements of a uint32 array are taken:
            ``Key.from_words(*state)`` of the two words of a Keras SeedGenerator or of a JAX key.
            The mask contract uses them as the two words of the key of Philox, in this order.
        stream, step, domain : int
            As in `Key`.

        Returns
        -------
        Key
            With ``seed = high * 2**32 + low``.

        Raises
        ------
        TypeError
            If a word is not an integer.
        ValueError
            If it is outside [0, 2**32).

        Examples
        --------
        >>> Key.from_words(7, 1)
        Key(seed=4294967303, stream=0, step=0)
        """
        seed = _field("high", high, 32) << 32 | _field("low", low, 32)
        return cls(seed, stream, step, domain=domain)

    def at(self, *, stream: int | None = None, step: int | None = None) -> Key:
        """The same seed and domain at another stream, another step, or both.

        Parameters
        ----------
        stream : int, optional
            In [0, 2**28). By default that of this key.
        step : int, optional
            In [0, 2**32). By default that of this key.

        Returns
        -------
        Key
            A new one.
        """
        return Key(
            self.seed,
            self.stream if stream is None else stream,
            self.step if step is None else step,
            domain=self.domain,
        )

    def __repr__(self) -> str:
        domain = f", domain={self.domain}" if self.domain else ""
        return f"Key(seed={self.seed}, stream={self.stream}, step={self.step}{domain})"


def _field(name: str, value: object, bits: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"Key: {name} must be an integer in [0, 2**{bits}), got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"Key: {name} must be an integer in [0, 2**{bits}), got {reprlib.repr(value)} "
            f"of type {type(value).__name__}"
        ) from None
    if not 0 <= number < 1 << bits:
        raise ValueError(f"Key: {name} must be in [0, 2**{bits}), got {number}")
    return number


def as_key(key: Key | int) -> Key:
    """``7`` means ``Key(7)``."""
    return key if isinstance(key, Key) else Key(_field("key", key, 64))
