"""How well a reconstruction matches the truth; the only place of the simulator that knows both."""

from fl_sim.evaluation.score import score

__all__ = ["score"]
