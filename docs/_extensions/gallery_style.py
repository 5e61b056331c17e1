"""The look of the pictures in the gallery: that of `dropcore.plotting`."""

from __future__ import annotations

from typing import Any

from dropcore.plotting._style import CYCLE, FAINT, INK

__all__ = ["look"]


def look(gallery_conf: dict[str, Any], name: str) -> None:
    """Set matplotlib's defaults before an example runs; sphinx-gallery calls this."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "axes.prop_cycle": mpl.cycler(color=CYCLE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.dpi": 120,
        }
    )
