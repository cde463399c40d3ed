"""A sweeper for scenarios that do not form one grid: a list of cases, each a small grid itself.

Hydra finds sweepers only in a package of this name. Chosen by ``override /hydra/sweeper: cases``:

    hydra:
      sweeper:
        params:
          seed: 0,1,2
        cases:
          - defense=none
          - defense=clip defense.clip.norm=1,0.1

runs nine jobs: (1 + 2) settings with three seeds each.
"""

# Hydra loads this file before it is in sys.modules, where dataclasses would look up annotations
# that are strings: so no `from __future__ import annotations`.
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


@dataclass
class CasesSweeperConf(BasicSweeperConf):
    """Settings of `CasesSweeper`."""

    _target_: str = "hydra_plugins.fl_sim_cases.CasesSweeper"
    cases: list[str] = field(default_factory=list)


class CasesSweeper(BasicSweeper):
    """Hydra's basic sweeper over the union of several grids, each crossed with `params`.

    Parameters
    ----------
    cases : list of str
        Each a grid as on the command line, its overrides separated by spaces. A key typed on the
        command line that occurs in any case replaces all cases.
    **settings
        As for `BasicSweeper`.
    """

    def __init__(self, cases: list[str], **settings: Any) -> None:
        super().__init__(**settings)
        self.cases = list(cases)

    def split_arguments(  # type: ignore[override]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the overrides of every job, in batches.

        Parameters
        ----------
        overrides : list of Override
            From `params` and the command line, in this order.
        max_batch_size : int, optional
            Most jobs of a batch; by default all are in one.
        """
        hydra = GlobalHydra.instance()  # its loader knows what there is, which glob(*) asks for
        parser = OverridesParser.create(hydra.config_loader() if hydra.is_initialized() else None)
        cases = [parser.parse_overrides(case.split()) for case in self.cases]
        given = {override.get_key_element() for override in overrides}
        if any(override.get_key_element() in given for case in cases for override in case):
            cases = []
        jobs = [
            job
            for case in cases or [[]]
            for batch in BasicSweeper.split_arguments([*case, *overrides], None)
            for job in batch
        ]
        return [list(batch) for batch in self.split_overrides_to_chunks(jobs, max_batch_size)]


ConfigStore.instance().store(
    group="hydra/sweeper", name="cases", node=CasesSweeperConf, provider="fl_sim"
)
