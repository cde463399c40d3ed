"""Every model in conf/model builds, trains and can be differentiated twice, from its seed alone."""

import inspect
from pathlib import Path

import hydra.utils
import pytest
import torch
from torch import nn

from fl_sim.cli import config_folder
from fl_sim.models import build_model
from fl_sim.models.initialize import INITS

NAMES = sorted(path.stem for path in Path(config_folder(), "model").glob("*.yaml"))
SMALL = {  # sizes that keep the tests quick
    "mlp": {"width": 16},
    "lenet": {"width": 20},
    "convnet": {"width": 16, "channels": [4, 4]},
    "vgg11": {"width": 16, "channels": 2},
    "resnet18": {"width": 16, "channels": 2},
    "vit": {"width": 16, "dim": 12, "blocks": 2},
}
SHAPES = [(1, 28, 28), (3, 32, 32)]


def config_of(scenario, name, **changes):
    overrides = [f"model={name}"] + [
        f"model.{key}={str(value).replace(' ', '')}"
        for key, value in (SMALL[name] | changes).items()
    ]
    return scenario(*overrides).model


def same(a, b):
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_all_models_are_tested():
    assert set(NAMES) == set(SMALL)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_gives_logits_and_a_full_gradient(scenario, name, shape):
    model = build_model(config_of(scenario, name), shape, 7, seed=0)
    inputs = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    logits = model(inputs)
    assert logits.shape == (3, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_can_be_differentiated(scenario, name):
    """Attacks that match gradients need the second derivative with respect to the inputs."""
    model = build_model(config_of(scenario, name, activation="tanh"), (1, 28, 28), 5, seed=0)
    inputs = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    inputs.requires_grad_()
    loss = nn.functional.cross_entropy(model(inputs), torch.tensor([0, 1]))
    gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(sum(g.square().sum() for g in gradient), inputs)
    assert second.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_parameters_and_nothing_else_changes(scenario, name):
    config = config_of(scenario, name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(config, (1, 28, 28), 10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert same(first, build_model(config, (1, 28, 28), 10, seed=5))
    assert not same(first, build_model(config, (1, 28, 28), 10, seed=6))
    assert first.training


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_shows_all_settings_with_their_defaults(scenario, name):
    shown = dict(scenario(f"model={name}").model)
    assert shown.pop("name") == name
    parameters = inspect.signature(hydra.utils.get_class(shown.pop("_target_"))).parameters
    defaults = {
        k: list(p.default) if isinstance(p.default, tuple) else p.default
        for k, p in parameters.items()
        if k not in ("input_shape", "num_classes")
    }
    assert shown == defaults


@pytest.mark.parametrize("name", NAMES)
def test_width_and_depth_are_those_of_the_linear_layers(scenario, name):
    config = config_of(scenario, name, width=24, depth=2)
    model = build_model(config, (1, 28, 28), 10, seed=0)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert linear[-1].out_features == 10
    assert linear[-1].in_features == linear[-2].out_features == 24


@pytest.mark.parametrize(
    ("name", "setting", "values"),
    [
        ("lenet", "pool", ["avg", "max"]),
        ("convnet", "downsample", ["stride", "max", "avg"]),
        ("vgg11", "pool", ["max", "avg"]),
        ("resnet18", "norm", ["group", "batch", "none"]),
        ("vit", "patch", [4, 7, 14]),
    ],
)
def test_a_choice_changes_the_function_and_a_bad_one_is_named(scenario, name, setting, values):
    inputs = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    outputs = [
        build_model(config_of(scenario, name, **{setting: v}), (1, 28, 28), 10, seed=0)(inputs)
        for v in values
    ]
    assert not any(torch.equal(outputs[0], other) for other in outputs[1:])
    for bad in ("odd", 5):
        with pytest.raises(ValueError, match=f"model.{setting}={bad!r}"):
            build_model(config_of(scenario, name, **{setting: bad}), (1, 28, 28), 10, seed=0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mlp", {"width": 0}, "model.width=0"),
        ("mlp", {"width": "abc"}, "model.width='abc'"),
        ("mlp", {"width": 1.5}, "model.width=1.5"),
        ("mlp", {"width": True}, "model.width=True"),
        ("mlp", {"depth": -1}, "model.depth=-1"),
        ("mlp", {"activation": "gelo"}, "model.activation='gelo' is unknown; there is gelu"),
        ("mlp", {"activation": "softmax"}, "model.activation='softmax' is not elementwise"),
        ("mlp", {"depth": 1, "activation": "gelo"}, "model.activation='gelo'"),
        ("mlp", {"init": []}, r"model.init=\[\] is not one of default"),
        ("mlp", {"init": "zeros"}, "model.init='zeros' is not one of default"),
        ("lenet", {"width": 0}, "model.width=0"),
        ("convnet", {"kernel_size": 4}, "model.kernel_size=4 is not odd"),
        ("convnet", {"channels": [4, 0]}, r"model.channels\[1\]=0"),
        ("convnet", {"channels": 5}, r"model.channels=5 is not a list"),
        ("convnet", {"channels": []}, r"model.channels=\[\] is not a list"),
        ("convnet", {"depth": 0}, "model.depth=0"),
        ("vgg11", {"channels": 0}, "model.channels=0"),
        ("resnet18", {"channels": "x"}, "model.channels='x'"),
        ("vit", {"heads": 5}, "model.heads=5 does not divide model.dim=12"),
        ("vit", {"blocks": 0}, "model.blocks=0"),
    ],
)
def test_a_bad_setting_is_named(scenario, name, changes, message):
    with pytest.raises(ValueError, match=message):
        build_model(config_of(scenario, name, **changes), (1, 28, 28), 10, seed=0)


def test_an_unknown_setting_is_named_with_the_known_ones():
    config = {"_target_": "fl_sim.models.mlp.MLP", "hidden": 3}
    with pytest.raises(ValueError, match="no setting 'hidden'; it has width, depth, activation"):
        build_model(config, (1, 28, 28), 10, seed=0)


def test_images_too_small_for_pooling_are_refused(scenario):
    with pytest.raises(ValueError, match=r"Images of shape \(1, 2, 2\) do not fit this model"):
        build_model(config_of(scenario, "convnet", downsample="max"), (1, 2, 2), 10, seed=0)


def test_resnet_with_group_norm_treats_each_sample_alone(scenario):
    model = build_model(config_of(scenario, "resnet18"), (1, 28, 28), 10, seed=0)
    inputs = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(inputs)[:1], model(inputs[:1]))
    assert not list(model.buffers())


def test_finding_the_feature_count_leaves_batch_norm_untouched(scenario):
    model = build_model(config_of(scenario, "resnet18", norm="batch"), (1, 28, 28), 10, seed=0)
    assert all(m.num_batches_tracked == 0 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_classical_sizes(scenario):
    sizes = {
        name: [
            m.out_features
            for m in build_model(scenario(f"model={name}").model, (1, 28, 28), 10, 0).modules()
            if isinstance(m, nn.Linear)
        ]
        for name in ("lenet", "mlp", "resnet18")
    }
    assert sizes == {"lenet": [120, 84, 10], "mlp": [1024, 10], "resnet18": [10]}


@pytest.mark.parametrize(
    ("init", "weight_std", "bias_std"),
    [
        ("default", 1 / (3 * 784) ** 0.5, 1 / (3 * 784) ** 0.5),
        ("kaiming_normal", (2 / 784) ** 0.5, 0.0),
        ("xavier_normal", (2 / (784 + 2000)) ** 0.5, 0.0),
        ("normal", (1 / 784) ** 0.5, 1.0),
        ("trunc_normal", 0.02 * 0.8796, 0.0),  # a normal cut at two standard deviations
    ],
)
def test_initialisations_have_their_spread(init, weight_std, bias_std):
    config = {"_target_": "fl_sim.models.mlp.MLP", "width": 2000, "init": init}
    layer = build_model(config, (1, 28, 28), 10, seed=0).layers[0]
    assert init in INITS
    assert layer.weight.std().item() == pytest.approx(weight_std, rel=0.02)
    assert layer.bias.std().item() == pytest.approx(bias_std, rel=0.1)
