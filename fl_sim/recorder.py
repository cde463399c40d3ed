"""Joins what the adversary found with the truth, and keeps it: rows, pictures, tracker, screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fl_sim.budget import budget, largest_budget
from fl_sim.config import ScenarioConfig
from fl_sim.display import Display
from fl_sim.evaluation import score
from fl_sim.federation import Federation
from fl_sim.records import AttackRow, Gallery, Results, TrainingRow
from fl_sim.tracking.base import Tracker
from strategies import Observation


class Recorder:
    """Takes observations and training rows as they come; what it has is on disk after each round.

    Parameters
    ----------
    config : ScenarioConfig
    federation : Federation
        Knows the truth; asked only after an attack has ended.
    results : Results
        Gets the rows.
    folder : Path
        Where the run's files go.
    tracker : Tracker
    display : Display
    """

    def __init__(
        self,
        config: ScenarioConfig,
        federation: Federation,
        results: Results,
        folder: Path,
        tracker: Tracker,
        display: Display,
    ) -> None:
        self.config = config
        self.federation = federation
        self.results = results
        self.folder = folder
        self.tracker = tracker
        self.display = display
        self.gallery = Gallery.empty(federation.data.image_shape)

    def observe(self, observation: Observation) -> None:
        """Evaluate one attack against the truth, and record it."""
        info = {} if observation.found is None else dict(observation.found.info)
        members = observation.clients or (observation.client,)
        spent = [budget(self.federation, client, observation.round) for client in members]
        if epsilons := [epsilon for epsilon in spent if epsilon is not None]:
            info["epsilon"] = max(epsilons)
        row = AttackRow(
            round=observation.round,
            client=observation.client,
            attack=self.config.attack.name,
            status=observation.status,
            message=observation.message,
            info=info,
            clients=list(observation.clients),
        )
        inputs, labels = self.federation.truth(members, row.round)
        row, gallery = score(
            row,
            observation.found,
            inputs,
            labels,
            self.federation.data,
            standardize=self.config.data.standardize,
            index=len(self.results.attacks),
        )
        self.results.attacks.append(row)
        self.gallery = self.gallery + gallery
        self.tracker.log_attack(row, gallery)
        self.display.attacked(row)

    def train(self, row: TrainingRow) -> None:
        """Record the state of the training after a round, and save everything so far."""
        row = replace(row, epsilon=largest_budget(self.federation, row.round))
        self.results.training.append(row)
        self.tracker.log_training(row)
        self.display.trained(row)
        self.save()

    def save(self) -> None:
        """Write results.json and reconstructions.npz."""
        self.results.save(self.folder)
        self.gallery.save(self.folder)
