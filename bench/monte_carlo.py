"""100 samples of 10,000 rows through 784-1024-1024-10, dropcore and PyTorch taking turns.

Every turn is a whole prediction, there and back (A B C C B A); reported are medians, and ratios to
dropcore. One round takes about two minutes on two cores, and both cases four.

    python bench/monte_carlo.py [--rounds 1] [--samples 100] [--cases under without] [--threads N]
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter, sleep

from subjects import prediction, versions

import dropcore


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--cases", nargs="+", choices=("under", "without"), help="input dropout")
    parser.add_argument("--threads", type=int, default=0, help="0: as dropcore decides")
    options = parser.parse_args()
    if options.threads:
        dropcore.set_num_threads(options.threads)
    print(f"{dropcore.build_info()['isa']}, {dropcore.get_num_threads()} threads")
    for word in options.cases or ("under", "without"):
        case = prediction.case(options.samples, word == "under")
        builders = [prediction.monte_carlo, prediction.summarised, prediction.monte_carlo_torch]
        if word == "without":
            builders.append(prediction.monte_carlo_torch_once)
        names = [builder.__name__ for builder in builders]
        warm = [builder(1, word == "under") for builder in builders]
        for call in warm:
            call()
        calls = [builder(*case.arguments) for builder in builders]
        times: dict[str, list[float]] = {name: [] for name in names}
        order = list(zip(names, calls, strict=True))
        for _ in range(options.rounds):
            for name, call in [*order, *reversed(order)]:
                sleep(0.05)
                start = perf_counter()
                call()
                times[name].append(perf_counter() - start)
        print(f"\n{case.name} of {prediction.ROWS} rows")
        own = median(times["monte_carlo"])
        for name in names:
            found = median(times[name])
            print(
                f"  {name:<24} {found:8.2f} s {case.operations / found / 1e9:8.1f} GFLOP/s of all "
                f"products {found / own:8.2f} x monte_carlo"
            )
    print("\n" + ", ".join(f"{name} {number}" for name, number in versions().items()))


if __name__ == "__main__":
    main()
