"""Fails if an install is larger than promised.

wheel_sizes.py FOLDER, which holds a wheel of dropcore and the wheels of all that it needs.
"""

import sys
from pathlib import Path

sizes = {path.name.split("-")[0]: path.stat().st_size for path in Path(sys.argv[1]).glob("*.whl")}
missing = {"dropcore", "numpy", "scipy", "tqdm"} - set(sizes)
if missing:
    sys.exit(f"{sys.argv[1]} has no wheel of {', '.join(sorted(missing))}")

rest = sum(size for name, size in sizes.items() if name not in ("numpy", "scipy"))
too_large = False
for name, size, limit in (
    ("dropcore", sizes["dropcore"], 2_000_000),
    ("dropcore and what it needs beside NumPy and SciPy", rest, 3_000_000),
):
    print(f"{name}: {size:,} bytes of {limit:,}")
    too_large |= size > limit
if too_large:
    sys.exit("the wheel is too large: is there debug information in the compiled module?")
