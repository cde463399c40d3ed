"""Settings of all tests: one torch thread, no telemetry, a home for Flower, a working Ctrl-C."""

import os
import signal
import tempfile

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_HOME", tempfile.mkdtemp(prefix="flwr-"))

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from fl_sim.cli import config_folder
from fl_sim.config import register
from fl_sim.sweep import job_folder

torch.set_num_threads(1)  # the models of the tests are tiny
# a shell makes its background jobs ignore Ctrl-C, and tests that press it would wait for ever
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def scenario():
    """Compose a scenario from overrides, as the command line does."""
    register()
    OmegaConf.register_new_resolver("fl_sim.job_folder", job_folder, replace=True)

    def composed(*overrides):
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            return compose("config", overrides=list(overrides))

    return composed
