"""Tables, and plots, from pytest-benchmark's results.

    pytest bench --benchmark-only --benchmark-json=results.json
    python bench/report.py results.json [--plot FOLDER]

Prints a Markdown table a group: medians, and ratios to the limit (a copy, say) and to dropcore.
--plot draws the time per element against the size and against the threads, as PNG.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
"""What bench/subjects says of a benchmark, and its median in seconds."""


def load(path: Path) -> tuple[dict[str, list[Result]], dict[str, Any]]:
    """The results by group, in the order measured, and what is known of the machine."""
    data = json.loads(path.read_text())
    groups = defaultdict(list)
    for benchmark in data["benchmarks"]:
        result = benchmark["extra_info"] | {"median": benchmark["stats"]["median"]}
        groups[benchmark["group"]].append(result)
    return dict(groups), data["machine_info"]


def header(groups: dict[str, list[Result]], machine: dict[str, Any]) -> str:
    """Machine and versions, once for all groups."""
    versions = {}
    for result in (result for group in groups.values() for result in group):
        versions |= result["versions"]
    processor = machine.get("cpu", {}).get("brand_raw") or machine.get("processor") or "?"
    found = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{processor}, {machine.get('system', '?')}. {found}."


def table(group: str, results: list[Result]) -> str:
    """A Markdown table of a group, fastest first."""
    first = results[0]
    medians = {result["subject"]: result["median"] for result in results}
    limits = [name for name in dict.fromkeys((first["reference"], first["own"])) if name in medians]
    columns = ["subject", "us/call", "ns/element"]
    columns += ["GB/s"] if first["moved"] else []
    columns += ["GFLOP/s"] if first["operations"] else []
    columns += [f"x {name}" for name in limits]
    rows = []
    for result in sorted(results, key=lambda result: result["median"]):
        seconds = result["median"]
        row = [
            result["subject"],
            f"{seconds * 1e6:.1f}",
            f"{seconds * 1e9 / first['elements']:.4f}",
        ]
        row += [f"{first['moved'] / seconds / 1e9:.1f}"] if first["moved"] else []
        row += [f"{first['operations'] / seconds / 1e9:.1f}"] if first["operations"] else []
        row += [f"{seconds / medians[name]:.2f}" for name in limits]
        rows.append(row)
    return "\n".join(
        [
            f"## {group}",
            "",
            f"{first['elements']} elements, {first['isa']}, {first['threads']} threads",
            "",
            "| " + " | ".join(columns) + " |",
            "|---|" + "---:|" * (len(columns) - 1),
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]
    )


def draw(results: list[Result], along: str, title: str, file: Path) -> None:
    """Nanoseconds per element along a property of the results, a curve a subject."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = defaultdict(list)
    for result in results:
        nanoseconds = result["median"] * 1e9 / result["elements"]
        curves[result["subject"]].append((result[along], nanoseconds))
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for subject, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=subject)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    if along == "threads":
        counts = sorted({result["threads"] for result in results})
        axes.set_xticks(counts, map(str, counts))
        axes.minorticks_off()
    axes.set(xlabel=along, ylabel="ns per element", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
    print(f"wrote {file}", file=sys.stderr)


def plots(results: Iterable[Result], folder: Path) -> None:
    """All scaling plots that the results have numbers for."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no plots: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return
    by_case: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result["kernel"] == "scaling":
            by_case["elements", "dropout by size"].append(result)
        elif result["kernel"] == "threads":
            by_case["threads", f"dropout by threads, {result['case']}"].append(result)
    if not by_case:
        print("no plots: the results lack bench_scaling.py", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    for (along, title), chosen in by_case.items():
        draw(chosen, along, title, folder / (title.replace(", ", "_").replace(" ", "_") + ".png"))


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="where to put PNG files")
    options = parser.parse_args()
    groups, machine = load(options.results)
    print(header(groups, machine), end="\n\n")
    for group, results in groups.items():
        print(table(group, results))
    if options.plot:
        plots((result for group in groups.values() for result in group), options.plot)


if __name__ == "__main__":
    main()
