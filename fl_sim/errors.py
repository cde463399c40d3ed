"""The two ways a run can end early, each with one plain sentence for the user."""


class ScenarioError(ValueError):
    """The configuration asks for something that cannot be; the sentence names the bad value."""


class RunError(RuntimeError):
    """A scenario that was fine failed while it ran."""
