"""One scenario, from its configuration to its records."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from omegaconf import OmegaConf

from fl_sim.aggregation import clipping_of
from fl_sim.check import as_scenario_error, check_batches, check_model, check_numbers
from fl_sim.client import client_app
from fl_sim.config import ScenarioConfig
from fl_sim.defenses import build_defenses
from fl_sim.display import Display
from fl_sim.errors import RunError
from fl_sim.federation import federation_of
from fl_sim.instantiate import instantiate
from fl_sim.local import torch_threads
from fl_sim.models.own import settled
from fl_sim.recorder import Recorder
from fl_sim.records import Results
from fl_sim.report.page import write_report
from fl_sim.server import Server, build_strategy, model_of
from fl_sim.tracking.base import Tracker, TrackerError
from strategies import SecAggPlus

log = logging.getLogger(__name__)


def plain(config: ScenarioConfig) -> dict[str, Any]:
    """Return a configuration as plain JSON values, every interpolation resolved."""
    content: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)  # type: ignore[arg-type]
    return dict(content)


def run_scenario(config: ScenarioConfig, folder: Path, display: Display) -> Results:
    """Run one scenario: train, attack, evaluate, record.

    Parameters
    ----------
    config : ScenarioConfig
        Everything is checked and built before anything runs.
    folder : Path
        Gets results.json, reconstructions.npz, report.html and what the tracker writes.
    display : Display
        Shows how far it is.

    Returns
    -------
    Results
        As written to results.json.

    Raises
    ------
    ScenarioError
        If the configuration asks for something that cannot be; nothing has run then.
    RunError
        If the run failed; what it had is on disk.
    KeyboardInterrupt
        If the user stopped it; what it had is on disk.
    """
    started = time.perf_counter()
    check_numbers(config)
    with as_scenario_error():
        config = settled(config)
        results = Results(scenario=plain(config))
        federation = federation_of(results.scenario)
        results.data_notes = list(federation.data.notes)
        check_batches(config, federation)
        build_defenses(results.scenario["defense"])  # clients build their own
        check_model(config, federation)
        model = model_of(config, federation)
        backend, tracker = instantiate(config.backend), instantiate(config.tracker)
        recorder = Recorder(config, federation, results, folder, tracker, display)
        strategy = build_strategy(config, federation, model, recorder.observe)
    server = Server(config, federation, strategy, model, recorder.train)

    try:
        display.started(config)
        tracker.start(results.scenario, folder)
        with torch_threads(config.threads):
            backend.run(server.app(), clients_of(strategy, results.scenario), config.clients.count)
        if server.error is not None:
            raise server.error
        results.status = "complete"
    except KeyboardInterrupt:
        results.status, results.message = "interrupted", "Stopped by the user."
        raise
    except Exception as error:
        cause = server.error or error
        log.debug("The run failed.", exc_info=cause)
        results.status, results.message = "failed", in_words(cause)
        raise RunError(results.message) from cause
    finally:
        results.wall_seconds = time.perf_counter() - started
        recorder.save()
        _present(results, folder, tracker, display)
    return results


def clients_of(strategy: Strategy, scenario: dict[str, Any]) -> ClientApp:
    """Return the client application that goes with a strategy."""
    if isinstance(strategy, SecAggPlus):
        from fl_sim.secagg_client import secagg_client_app  # loads Flower's older interface

        return secagg_client_app(scenario)
    return client_app(scenario, clipping_of(strategy))


def _present(results: Results, folder: Path, tracker: Tracker, display: Display) -> None:
    """Write the page, close the tracker, show the outcome; the results are safe by now."""
    page = None
    try:
        try:
            page = write_report(folder)
        finally:
            tracker.finish(results)
    except Exception as error:
        raise RunError(f"{in_words(error)} (the results are kept in {folder})") from error
    finally:
        display.finished(results, page)


def in_words(error: BaseException) -> str:
    """Return an error as a sentence; only errors of other people's code show their type."""
    own = isinstance(error, TrackerError | RunError)
    text = " ".join(str(error).split())
    return text if own else f"{type(error).__name__}: {text}"
