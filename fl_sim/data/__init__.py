"""Images, how they are shared out among clients, and which of them a client uses in a round."""

from fl_sim.data.batches import batch_indices
from fl_sim.data.images import ImageData
from fl_sim.data.loading import load_data
from fl_sim.data.partition import share

__all__ = ["ImageData", "batch_indices", "load_data", "share"]
