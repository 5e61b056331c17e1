"""Draws every frozen mask of training decisions with the installed package.

frozen_masks.py FILE, whose header explains its columns.
"""

import sys

import dropcore

drawn = 0
with open(sys.argv[1], encoding="ascii") as lines:
    for line in lines:
        if line.startswith("#"):
            continue
        seed, stream, step, domain, offset, size, _, keep, bits = line.split()
        if domain != "0":
            continue
        mask = dropcore.Mask(
            (int(size),),
            keep=float.fromhex(keep),
            key=dropcore.Key(int(seed, 16), stream=int(stream), step=int(step)),
            offset=int(offset),
        )
        if mask.packed().tobytes().hex() != bits:
            sys.exit(f"this frozen mask is drawn differently: {line[:100]}")
        drawn += 1
if not drawn:
    sys.exit("no frozen mask was read")
print(f"dropcore {dropcore.__version__} from {dropcore.__file__}")
print(f"{drawn} frozen masks drawn, all equal, by {dropcore.build_info()['isa']}")
