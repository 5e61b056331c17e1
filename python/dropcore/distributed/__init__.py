"""Training on several processes.

``model.fit(x, y, ..., comm=MPI.COMM_WORLD)`` trains on all processes of an MPI communicator. Each
process takes some rows of every batch, draws the masks of these rows, and all add up their
gradients. `Ranks` is for other settings than the defaults, and `RankError` is what the other
processes raise where one cannot train.
"""

from dropcore.distributed._group import RankError
from dropcore.distributed._ranks import Ranks

__all__ = ["RankError", "Ranks"]
