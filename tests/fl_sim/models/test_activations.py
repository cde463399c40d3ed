"""Any elementwise activation of torch.nn can be named; nothing else can."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_sim.models.activations import activation_names, make_activation

EXPECTED = [
    "relu",
    "leaky_relu",
    "gelu",
    "silu",
    "elu",
    "selu",
    "celu",
    "softplus",
    "tanh",
    "sigmoid",
    "mish",
    "softsign",
    "hardswish",
    "hardtanh",
    "relu6",
    "softshrink",
    "logsigmoid",
    "identity",
]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_usual_ones_are_there(name):
    assert type(make_activation(name)).__name__.lower() == name.replace("_", "")


@given(st.sampled_from(activation_names()), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_all_act_on_each_element_alone(name, seed):
    activation = make_activation(name)
    x = 3 * torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    shuffled = activation(x.flatten()[order])
    torch.testing.assert_close(shuffled, activation(x).flatten()[order])


@pytest.mark.parametrize("name", ["softmax", "logsoftmax", "softmin", "glu", "rrelu", "threshold"])
def test_what_mixes_elements_or_draws_or_needs_arguments_is_refused(name):
    with pytest.raises(ValueError, match=f"model.activation='{name}' is not elementwise"):
        make_activation(name)


@pytest.mark.parametrize("name", ["", "module", "linear", None, 3])
def test_other_names_are_unknown(name):
    with pytest.raises(ValueError, match="is unknown; there is"):
        make_activation(name)


def test_probing_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    activation_names.cache_clear()
    assert "relu" in activation_names()
    assert torch.equal(torch.get_rng_state(), before)
