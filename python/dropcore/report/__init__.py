"""Reports on trained models: one self-contained HTML file.

`write_report` puts the scores, the advice of `dropcore.diagnosis` and the pictures of
`dropcore.plotting` on a page that needs no network and no scripts, is readable on a phone, in the
dark and on paper, and says how to repeat the training.
"""

import dropcore.nn
import dropcore.plotting
import dropcore.uncertainty  # noqa: F401
from dropcore.report._write import write_report

__all__ = ["write_report"]
