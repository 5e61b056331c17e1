"""Pictures of matplotlib as SVG inside a page."""

from __future__ import annotations

import io
import re
import threading
from typing import Any, Final

from dropcore._base.extras import require
from dropcore.plotting._style import BLUE, GRID, INK

__all__ = ["inline_svg"]

_SETTINGS: Final = threading.Lock()
"""Held while settings of matplotlib, which belong to the process, are changed."""


def inline_svg(ax: Any, label: str, number: int) -> Any:
    """The figure of some axes as an SVG element for HTML.

    Text stays text, which can be searched, scales with the page and needs no font of matplotlib's.
    Ink, grid and blue take the colours of the page, which may be dark.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    label : str
        The text for screen readers.
    number : int
        Number of the picture on the page, so that identifiers differ.

    Returns
    -------
    markupsafe.Markup
    """
    matplotlib = require("matplotlib", "report", "a report")
    markup = require("jinja2", "report", "a report").utils.markupsafe
    written = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": f"dropcore-{number}"}
    with _SETTINGS, matplotlib.rc_context(settings):
        ax.figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for colour, own in ((INK, "currentColor"), (GRID, "var(--grid)"), (BLUE, "var(--accent)")):
        text = text.replace(colour.lower(), own)
    # Identifiers of groups, such as "axes_1", repeat from picture to picture and are not used.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    start = f'<svg role="img" aria-label="{markup.escape(label)}"'
    return markup.Markup(text.replace("<svg", start, 1))
