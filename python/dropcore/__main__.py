"""``python -m dropcore`` is the command ``dropcore``."""

from dropcore.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
