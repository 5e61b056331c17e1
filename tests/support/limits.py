"""What cannot be tried where memory is watched."""

from __future__ import annotations

import os
import sys

import pytest

NEEDS_LIMITS = pytest.mark.skipif(
    sys.platform != "linux" or bool(os.environ.get("DROPCORE_SANITIZER")),
    reason="limits of memory are those of Linux, and sanitizers need more than any",
)
