"""Everything on a GPU in one run: first whether it is right, then how fast it is.

    python bench/gpu.py --output gpu.json [--quick] [--only parity_masks dropout ...] [--list]

Parity: the same calls on NumPy and on CuPy arrays, compared bit for bit where the library promises
bits. Times: by CUDA events, the candidates taking turns there and back (A B C C B A), medians over
the turns; beside a copy of as many bytes, CuPy's own idiom, PyTorch eager and torch.compile. A
section that fails, or a peer that is not there, is noted and the rest goes on; the JSON is written
after every section, and a Markdown table of the targets is printed at the end.

Needs a GPU, CuPy and dropcore. Runs unattended, in less than 8 minutes on an H200.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from on_gpu import SECTIONS, SIZES, Clock, Setting, run, table

from dropcore._backends.cuda import kernels


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: a minute or two")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no section after these")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--list", action="store_true", help="name all sections")
    options = parser.parse_args(arguments)
    if options.list:
        for name, own in SECTIONS.items():
            print(f"{name:18} {(own.__doc__ or '').strip()}")
        return 0
    try:
        xp = kernels.require_device()
    except (ImportError, RuntimeError) as error:
        print(f"bench/gpu.py needs a GPU: {error}", file=sys.stderr)
        return 1
    deadline = time.monotonic() + 60 * options.minutes
    setting = Setting(xp, Clock(xp), SIZES["quick" if options.quick else "full"], deadline)
    report = run(setting, options.only or list(SECTIONS), options.output)
    print(table(report))
    failed = [name for name, found in report["sections"].items() if "failed" in found]
    return 1 if report["parity"] is False or failed else 0


if __name__ == "__main__":
    sys.exit(main())
