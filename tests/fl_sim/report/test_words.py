import pytest

from fl_sim.report.words import describe
from tests.fl_sim.report.synthetic import scenario


def test_the_default_scenario_in_one_sentence():
    assert describe(scenario(model__width=1024, clients__batch_size=32)) == (
        "2 of 4 clients, each training a 2-layer GELU network of width 1024 on 32 Fashion-MNIST "
        "images, sent one update; the honest-but-curious server ran the tensor attack, knowing "
        "nothing but the protocol."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rounds": 5}, "In each of 5 rounds, 2 of 4 clients"),
        ({"clients__per_round": 4}, "All 4 clients"),
        ({"clients__count": 1, "clients__per_round": 1}, "One client, training"),
        ({"clients__per_round": 1}, "One of 4 clients"),
        ({"clients__batch_size": 1}, "on 1 Fashion-MNIST image,"),
        ({"clients__local_steps": 3}, "sent one update after 3 local steps"),
        ({"clients__reply": "gradient"}, "sent one gradient"),
        (
            {"defense": {"clip": {}, "gaussian_noise": {}}},
            "by clipping and Gaussian noise",
        ),
        ({"attack__name": "none"}, "the honest-but-curious server ran no attack."),
        ({"attack__knows": ["labels", "batch_size"]}, "told the labels and batch size."),
        (
            {"strategy__adversary": {"query": {"center": 0.0, "spread": 0.35, "gain": 2}}},
            "assuming of the images: mean brightness 0 and spread of the brightness 0.35.",
        ),
        ({"data__partition": "dirichlet"}, "from a Dirichlet split (alpha 0.5)"),
        ({"strategy__name": "new_one"}, "the server (strategy new one) ran"),
        ({"model": {"name": "resnet18"}}, "training a ResNet-18 on"),
        ({"model__depth": 8}, "training an 8-layer GELU network"),
        ({"model__activation": "my_own"}, "2-layer my own network"),
    ],
)
def test_each_choice_is_said(changes, expected):
    assert expected in describe(scenario(**changes))


def test_a_scenario_without_keys_is_still_a_sentence():
    told = describe({})
    assert told.startswith("The clients, each training a network on images, sent one update")
    assert told.endswith(".")
