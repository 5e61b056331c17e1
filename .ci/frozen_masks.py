"""Draws every frozen mask of training decisions with the installed package.

frozen_masks.py FILE [MODULE]. The header of FILE explains its columns. MODULE is the file of an
example that was built with the installed headers, c_dropout or row_dropout, which then draws.
"""

import importlib.util
import sys
from pathlib import Path

import dropcore


def by_package(size, keep, seed, stream, step, offset):
    """The packed mask, by dropcore itself."""
    key = dropcore.Key(seed, stream=stream, step=step)
    return dropcore.Mask((size,), keep=keep, key=key, offset=offset).packed()


def by_module(path):
    """The name of an example, and its function that draws a packed mask."""
    name = Path(path).name.partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def fill(size, *rest):
        bits = bytearray((size + 7) // 8)
        if module.packed_mask(bits, size, *rest) != 0:
            sys.exit(f"{name} does not take {size, *rest}")
        return bits

    return name, fill if name == "c_dropout" else module.packed_mask


name, draw = by_module(sys.argv[2]) if len(sys.argv) > 2 else ("dropcore.Mask", by_package)
drawn = 0
with open(sys.argv[1], encoding="ascii") as lines:
    for line in lines:
        if line.startswith("#"):
            continue
        seed, stream, step, domain, offset, size, _, keep, bits = line.split()
        if domain != "0":
            continue
        place = int(seed, 16), int(stream), int(step), int(offset)
        if bytes(draw(int(size), float.fromhex(keep), *place)).hex() != bits:
            sys.exit(f"this frozen mask is drawn differently by {name}: {line[:100]}")
        drawn += 1
if not drawn:
    sys.exit("no frozen mask was read")
print(f"dropcore {dropcore.__version__} from {dropcore.__file__}")
print(f"{drawn} frozen masks drawn by {name}, all equal, on {dropcore.build_info()['isa']}")
