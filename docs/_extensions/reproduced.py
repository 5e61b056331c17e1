"""Directives that show what the experiments of the papers have given, as it was recorded.

``{reproduced} NAME`` is the table, the picture and the command of one experiment, from
``papers/NAME.jsonl`` and ``papers/NAME.png`` beside the page. ``{all-reproduced}`` is a table with
a row for each experiment that has a record.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from dropcore.reproduction import Results, load_script, read_results, script_names

FOLDER = "papers"
FEW = 6
ISAS = {"scalar": "no SIMD", "avx2": "AVX2", "avx512": "AVX-512", "neon": "NEON"}


def results_of(name: str, folder: Path) -> Results:
    """The recorded runs of an experiment."""
    return read_results(load_script(name), folder / f"{name}.jsonl")


def shown(number: float | None, digits: int) -> str:
    """A number, or nothing."""
    return "" if number is None else f"{number:.{digits}f}"


def summary(results: Results) -> str:
    """The machines, the seeds and the time, in a sentence."""
    records = results.records
    machines = sorted({f"{ISAS[r.machine['isa']]}, {threads(r)}" for r in records})
    seeds = sorted({record.seed for record in records})
    hours = sum(record.cpu_seconds for record in records) / 3600
    listed = ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"Seed{'s' * (len(seeds) > 1)} {listed}; x86-64, {' and '.join(machines)}; "
        f"{hours:.2g} hours of CPU time for {len(records)} runs."
    )


def in_short(results: Results) -> list[str]:
    """Rows for a list: all if they are few, else those with a published figure if there are any."""
    published = [row for row in results.rows if results.experiment.published(row)]
    return published if published and len(results.rows) > FEW else results.rows


def threads(record: Any) -> str:
    """How many threads a run had."""
    count = record.machine["threads"]
    return f"{count} thread{'s' * (count != 1)}"


class Page(SphinxDirective):
    """What both directives need."""

    @property
    def folder(self) -> Path:
        return Path(self.env.doc2path(self.env.docname)).parent / FOLDER

    def results(self, name: str) -> Results:
        path = self.folder / f"{name}.jsonl"
        self.env.note_dependency(str(path))
        if not path.exists():
            raise self.error(f"no results have been recorded of {name}: {path} is missing")
        return results_of(name, self.folder)

    def table(
        self, head: Iterable[str], lines: Iterable[Iterable[Any]], widths: Iterable[int] = ()
    ) -> nodes.table:
        """A table of texts, or of nodes; columns have these relative widths, if there are any."""
        head, lines, widths = list(head), [list(line) for line in lines], list(widths)
        group = nodes.tgroup(cols=len(head))
        group += [nodes.colspec(colwidth=width) for width in widths or [1] * len(head)]
        rows = []
        for line in [head, *lines]:
            row = nodes.row()
            for cell in line:
                node = cell if isinstance(cell, nodes.Node) else nodes.paragraph(text=cell)
                row += nodes.entry("", node)
            rows.append(row)
        group += nodes.thead("", rows[0])
        group += nodes.tbody("", *rows[1:])
        given = ["colwidths-given"] * bool(widths)
        return nodes.table("", group, classes=["reproduced", *given])


class Reproduced(Page):
    """One experiment."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        results = self.results(name)
        head, *lines = [[cell.replace("+-", "±") for cell in line] for line in results.cells()]
        picture = nodes.image(
            uri=f"{FOLDER}/{name}.png", alt=results.experiment.title, width="100%"
        )
        command = f"dropcore reproduce {name}"
        return [
            self.table(head, lines),
            nodes.paragraph(text=summary(results)),
            picture,
            nodes.literal_block(command, command, language="none"),
        ]


class AllReproduced(Page):
    """A row for each experiment."""

    def run(self) -> list[nodes.Node]:
        lines = []
        for name in script_names():
            if not (self.folder / f"{name}.jsonl").exists():
                continue
            results = self.results(name)
            experiment, measure = results.experiment, results.experiment.measures[0]
            figures = [
                f"{row}: " + " / ".join(
                    filter(None, (
                        shown(experiment.published(row).get(measure.name), measure.digits),
                        results.shown(row).replace("+-", "±"),
                    ))
                )
                for row in in_short(results)
            ]  # fmt: skip
            thumbnail = nodes.image(uri=f"{FOLDER}/{name}.png", alt=experiment.title, width="220px")
            listed = nodes.bullet_list(
                "", *(nodes.list_item("", nodes.paragraph(text=text)) for text in figures)
            )
            lines.append(
                [
                    f"{experiment.title} ({experiment.paper})",
                    nodes.container("", nodes.paragraph(text=measure.label), listed),
                    thumbnail,
                    nodes.paragraph("", "", nodes.literal(text=f"dropcore reproduce {name}")),
                ]
            )
        head = ["experiment", "published / ours", "picture", "command"]
        return [self.table(head, lines, widths=(22, 30, 28, 20))]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("reproduced", Reproduced)
    app.add_directive("all-reproduced", AllReproduced)
    return {"parallel_read_safe": True}
