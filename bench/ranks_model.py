"""A model of training on many ranks: fitted to what ``bench/ranks.py`` measured, then carried on.

    python bench/ranks_model.py ranks.json [--plot FILE.svg]

An update of a rank takes

    compute(rows) + totals(N) + what is left of the sum of the gradients + weights

where compute(rows) = c0 + c1 rows is a straight line through the measured forward and backward
passes; totals(N) = 2 ceil(log2 N) latency is the exchange of the loss; and the sum over N ranks
takes, for a bucket of S bytes, 2 log2(N) latency + 2 (N - 1) / N S / bandwidth + (N - 1) / N S /
adding. A bucket is sent when the backward pass has filled it and the one before it is through.
`Machine.overlaps` says whether that goes on beside the backward pass, as with a network adapter, or
not, as where the same processor copies the messages.

The tables show the model beside the measurement, and then each machine of `MACHINES` at 1 to 4096
ranks. Whatever there is not measured is an assumption, which `Machine.because` names.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

RANKS = tuple(1 << power for power in range(13))

BUCKET = 1 << 20
"""Bytes of a bucket, as in dropcore."""


@dataclass(frozen=True)
class Machine:
    """What decides how long an update takes.

    Attributes
    ----------
    name, because : str
        The machine, and where its numbers are from.
    fixed, per_row : float
        Seconds of a forward and backward pass: fixed + per_row * rows.
    backward : float
        The part of them that is the backward pass.
    weights : float
        Seconds to update all weights.
    latency : float
        Seconds of an empty message.
    bandwidth, adding : float
        Bytes a second that a rank sends and receives at a time, and that it adds.
    overlaps : bool
        Whether messages go on beside the backward pass.
    """

    name: str
    because: str
    fixed: float
    per_row: float
    backward: float
    weights: float
    latency: float
    bandwidth: float
    adding: float
    overlaps: bool


@dataclass(frozen=True)
class Network:
    """Bytes of the gradients of each layer, the first one first, and their part of the work."""

    bytes: tuple[int, ...]

    @classmethod
    def of(cls, units: list[int]) -> Network:
        return cls(tuple(4 * (a + 1) * b for a, b in pairwise(units)))

    def buckets(self) -> list[tuple[float, int]]:
        """When each bucket is full, as a part of the backward pass, and its bytes."""
        found, filled, done, whole = [], 0, 0, sum(self.bytes)
        for size in reversed(self.bytes):
            filled, done = filled + size, done + size
            if filled >= BUCKET:
                found.append((done / whole, filled))
                filled = 0
        return [*found, (1.0, filled)] if filled else found


def seconds_of_sum(machine: Machine, ranks: int, size: int) -> float:
    """Of the sum of a bucket over all ranks."""
    if ranks == 1:
        return 0.0
    part = (ranks - 1) / ranks * size
    steps = 2 * math.ceil(math.log2(ranks))
    return steps * machine.latency + part * (2 / machine.bandwidth + 1 / machine.adding)


def seconds_of_update(machine: Machine, network: Network, ranks: int, rows: int) -> float:
    """Of an update in which each rank has so many rows: a simulation of its buckets."""
    compute = machine.fixed + machine.per_row * rows
    backward = machine.backward * compute
    begun = compute - backward + 2 * math.ceil(math.log2(ranks)) * machine.latency
    now = link = begun
    for part, size in network.buckets():
        now = max(now, begun + part * backward)
        if machine.overlaps:
            link = max(link, now) + seconds_of_sum(machine, ranks, size)
        else:
            now += seconds_of_sum(machine, ranks, size)
            begun += seconds_of_sum(machine, ranks, size)
    return max(now, link, begun + backward) + machine.weights


def fitted(report: dict) -> Machine:
    """This machine, one core a rank, from the measurement."""
    seconds = report["seconds"]
    points = {
        int(what.split()[1]): found[what] + found[what.replace("forward", "backward")]
        for found in seconds.values()
        for what in found
        if what.startswith("forward")
    }
    # Relative errors count, as the times differ by an order of magnitude.
    rows, times = (np.array(each, float) for each in zip(*sorted(points.items()), strict=True))
    design = np.stack([1 / times, rows / times], axis=1)
    (fixed, per_row), *_ = np.linalg.lstsq(design, np.ones(len(times)), rcond=None)
    one, two = seconds["1"], seconds["2"]
    sizes, each = zip(
        *((int(what.split()[1]), t) for what, t in two.items() if what.startswith("message")),
        strict=True,
    )
    large = [(size, t) for size, t in zip(sizes, each, strict=True) if size >= 1 << 20]
    bandwidth = sum(size for size, _ in large) / sum(t for _, t in large)
    size = 4 * report["parameters"]
    left = two["sum in a tree"] - size / bandwidth
    most = max(rows)
    return Machine(
        "this machine",
        "measured",
        max(fixed, 0.0),
        per_row,
        one[f"backward {most:.0f}"] / points[most],
        one["weights"],
        min(each),
        bandwidth,
        size / 2 / max(left, 1e-6),
        overlaps=False,
    )


def others(machine: Machine, parameters: int) -> list[Machine]:
    """Machines that have not been measured."""
    return [
        replace(
            machine, name="cores, 100 Gb/s InfiniBand", overlaps=True, latency=2e-6, bandwidth=11e9,
            because="compute measured here; 2 us and 11 GB/s are assumed for 100 Gb/s with MPI, "
            "which the adapter moves by itself",
        ),
        replace(
            machine, name="cores, 10 Gb/s Ethernet", overlaps=True, latency=30e-6, bandwidth=1.1e9,
            because="compute measured here; 30 us and 1.1 GB/s are assumed for TCP",
        ),
        Machine(
            "GPUs, NCCL, 400 Gb/s each", "assumed: 50 TFLOP/s of products, 0.3 ms of launches "
            "an update, 2 TB/s for the weights, 10 us and 40 GB/s a step of NCCL; no GPU was "
            "measured", 3e-4, 6 * parameters / 50e12, 2 / 3, 20 * parameters / 2e12, 10e-6, 40e9,
            1e12, overlaps=True,
        ),
    ]  # fmt: skip


def efficiency(machine: Machine, network: Network, ranks: int, *, rows: int, weak: bool) -> float:
    """Rows a second of N ranks over N times those of one.

    Parameters
    ----------
    rows : int
        Of a rank if `weak`, else of the whole batch.
    """
    one = rows / seconds_of_update(machine, network, 1, rows)
    own = rows if weak else max(1, rows // ranks)
    return own / seconds_of_update(machine, network, ranks, own) / one


def pays_until(machine: Machine, network: Network, *, rows: int, weak: bool) -> int:
    """The largest number of ranks of which each still does half of what one alone does."""
    good = [n for n in RANKS if (weak or n <= rows)
            and efficiency(machine, network, n, rows=rows, weak=weak) >= 0.5]  # fmt: skip
    return max(good)


def compared(report: dict) -> list[tuple[int, float, float]]:
    """Ranks, measured and modelled seconds of an update."""
    machine, network = fitted(report), Network.of(report["units"])
    found = []
    for ranks, seconds in sorted((int(n), each) for n, each in report["seconds"].items()):
        crowd = max(1.0, ranks / report["cores"])  # ranks that share a core
        shared = replace(machine, fixed=machine.fixed * crowd, per_row=machine.per_row * crowd,
                         weights=machine.weights * crowd,
                         bandwidth=machine.bandwidth / crowd)  # fmt: skip
        rows = report["batch"] // ranks
        found.append((ranks, seconds["update"], seconds_of_update(shared, network, ranks, rows)))
    return found


def plotted(report: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    machine, network = fitted(report), Network.of(report["units"])
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    settings = ((True, 512, "512 rows on each rank"), (False, 16384, "16,384 rows in all"))
    for panel, (weak, rows, title) in zip(panels, settings, strict=True):
        for other in others(machine, report["parameters"]):
            panel.plot(
                RANKS,
                [efficiency(other, network, n, rows=rows, weak=weak) for n in RANKS],
                marker=".",
                label=other.name,
            )
        panel.axhline(0.5, color="0.6", linewidth=0.8, linestyle="--")
        panel.set(xscale="log", xlabel="ranks", title=title, ylim=(0, 1.05))
        panel.set_xticks(RANKS[::2], [str(n) for n in RANKS[::2]], fontsize=8)
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("rows a second, part of N times one rank")
    panels[1].legend(frameon=False)
    figure.savefig(path)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="the file that bench/ranks.py wrote")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    report = json.loads(options.report.read_text())
    machine, network = fitted(report), Network.of(report["units"])
    print(
        f"compute {1e3 * machine.fixed:.2f} ms + {1e6 * machine.per_row:.1f} us a row, of which "
        f"{machine.backward:.0%} backward; weights {1e3 * machine.weights:.2f} ms; latency "
        f"{1e6 * machine.latency:.1f} us, {machine.bandwidth / 1e9:.1f} GB/s, adding "
        f"{machine.adding / 1e9:.1f} GB/s"
    )
    print("ranks  measured  model (ms an update)")
    for ranks, measured, modelled in compared(report):
        print(f"{ranks:5}  {1e3 * measured:8.2f}  {1e3 * modelled:5.2f}")
    for weak, rows in ((True, 512), (False, 16384)):
        print(f"\n{rows} rows {'on each rank' if weak else 'in all'}: part of N times one rank")
        print(f"{'':30}" + "".join(f"{n:>6}" for n in RANKS[3::3]) + "  pays until")
        for other in others(machine, report["parameters"]):
            each = [efficiency(other, network, n, rows=rows, weak=weak) for n in RANKS[3::3]]
            until = pays_until(other, network, rows=rows, weak=weak)
            print(f"{other.name:30}" + "".join(f"{e:6.2f}" for e in each) + f"  {until}")
    if options.plot is not None:
        plotted(report, options.plot)


if __name__ == "__main__":
    main()
