"""Every choice of every group composes, and what it names can be built."""

import pytest

from fl_sim.check import check_numbers
from fl_sim.cli import config_folder
from fl_sim.defenses import build_defenses
from fl_sim.instantiate import instantiate
from fl_sim.models import build_model
from fl_sim.scenario import plain

GROUPS = {path.name for path in config_folder().iterdir() if path.is_dir()}
CHOICES = sorted((path.parent.name, path.stem) for path in config_folder().glob("*/*.yaml"))


def choices(group):
    return [choice for g, choice in CHOICES if g == group]


def test_the_folders_are_the_groups_of_a_scenario():
    from fl_sim.config import ScenarioConfig

    assert GROUPS - {"experiment"} <= set(ScenarioConfig.__dataclass_fields__)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_resolves(scenario, group, choice):
    config = scenario(f"{group}={choice}", "data.root=.")
    resolved = plain(config)
    if group not in ("experiment", "defense"):
        assert resolved[group]["name"] == choice
    check_numbers(config)


@pytest.mark.parametrize("choice", choices("model"))
def test_every_model_is_built_with_its_own_settings(scenario, choice):
    config = plain(scenario(f"model={choice}", "model.width=8"))["model"]
    model = build_model(config, (1, 28, 28), 10, seed=0)
    assert sum(p.numel() for p in model.parameters()) > 0


@pytest.mark.parametrize("choice", [c for c in choices("attack") if c != "none"])
def test_every_attack_is_built(scenario, choice):
    attack = instantiate(plain(scenario(f"attack={choice}"))["attack"]["method"])
    assert callable(attack.run)


@pytest.mark.parametrize("group", ["backend", "tracker"])
def test_every_backend_and_tracker_is_built(scenario, group):
    for choice in choices(group):
        assert instantiate(plain(scenario(f"{group}={choice}"))[group]) is not None


@pytest.mark.parametrize("choice", choices("defense"))
def test_every_defense_is_built(scenario, choice):
    built = build_defenses(plain(scenario(f"defense={choice}"))["defense"])
    assert len(built) == (choice != "none")


def test_defenses_compose_in_order(scenario):
    config = plain(scenario("defense=[gaussian_noise,clip]", "defense.clip.norm=3"))
    built = build_defenses(config["defense"])
    assert [type(d).__name__ for d in built] == ["GaussianNoise", "Clip"]
    assert built[1].norm == 3


def test_every_experiment_opens_with_its_command():
    for path in config_folder().glob("experiment/*.yaml"):
        head = path.read_text().splitlines()[:4]
        assert head[0] == "# @package _global_"
        assert any(line.startswith("#   fl-sim") and path.stem in line for line in head), path


def test_the_defaults_are_those_that_are_promised(scenario):
    config = plain(scenario())
    clients = config["clients"]
    assert [clients[k] for k in ("count", "per_round", "batch_size")] == [4, 2, 32]
    assert [clients[k] for k in ("reply", "local_steps", "lr")] == ["weights", 1, 0.1]
    model = config["model"]
    assert [model[k] for k in ("name", "width", "depth", "activation", "init")] == [
        "mlp", 1024, 2, "gelu", "default",
    ]  # fmt: skip
    names = [config[k]["name"] for k in ("data", "strategy", "attack", "backend", "tracker")]
    assert names == ["fashion_mnist_mini", "honest_but_curious", "tensor", "inline", "wandb"]
    assert [config[k] for k in ("rounds", "seed", "device")] == [1, 0, "cpu"]
