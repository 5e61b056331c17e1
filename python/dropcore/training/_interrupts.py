"""Ctrl-C waits until an update is complete."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """Defers SIGINT while an update changes the model.

    Outside `with` it does nothing. Inside, a SIGINT that arrives within ``with
    interrupts.deferred:`` is handled when the outermost such block ends. Only the main thread gets
    signals, so in other threads nothing is changed; nor is anything where SIGINT is ignored or ends
    the process.
    """

    def __init__(self) -> None:
        self.deferred = _Deferred()

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self.deferred.handler = before
                signal.signal(signal.SIGINT, self.deferred.on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self.deferred.handler is not None:
            # A handler that was set meanwhile stays.
            if signal.getsignal(signal.SIGINT) == self.deferred.on_signal:
                signal.signal(signal.SIGINT, self.deferred.handler)
            self.deferred.handler = None


class _Deferred:
    def __init__(self) -> None:
        self.handler: Any = None
        self._depth = 0
        self._pending = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._depth:
            self._pending = True
        else:
            self.handler(number, frame)

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._pending and not self._depth:
            self._pending = False
            self.handler(signal.SIGINT, None)
