"""The command ``dropcore``.

One file a command; `main` runs the one that is named. What the commands share is in the files
whose names begin with an underscore.
"""

from dropcore.cli._main import main

__all__ = ["main"]
