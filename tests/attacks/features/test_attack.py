"""Images behind convolutions: exact, certified, and honest where they are not."""

import pytest
import torch
from torch import nn

from attacks import FeatureInversion, NotApplicable, TensorAttack


def gradient_of(model, inputs, labels):
    loss = nn.functional.cross_entropy(model(inputs), labels)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return {n: g for (n, _), g in zip(model.named_parameters(), grads, strict=True)}


def images(count, side=10):
    """Smooth random pictures."""
    coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)


def distance(found, inputs):
    gap = torch.cdist(inputs.flatten(1).double(), found.inputs.flatten(1).double())
    return (gap / inputs.flatten(1).norm(dim=1, keepdim=True)).min(1)


def strided(activation):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2),
        activation(),
        nn.Conv2d(12, 24, 3, 1, 1),
        activation(),
        nn.Flatten(),
        nn.Linear(600, 128),
        activation(),
        nn.Linear(128, 4),
    )


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU, nn.Tanh])
def test_images_behind_strided_convolutions_are_exact_and_certified(activation):
    model, inputs, labels = strided(activation), images(4), torch.tensor([0, 1, 2, 2])
    found = FeatureInversion().run(
        model, gradient_of(model, inputs, labels), input_shape=(1, 10, 10)
    )
    error, nearest = distance(found, inputs)
    assert error.max() < 1e-4
    assert found.certified.all()
    assert len(found) == found.batch_size == 4
    assert torch.equal(found.labels[nearest], labels)
    torch.testing.assert_close(found.features[nearest], model[:5](inputs), rtol=1e-3, atol=1e-4)
    assert "reason" not in found.info


class Own(nn.Module):
    """Nobody's architecture: functions in place of modules, a skip, a branch on data."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.lead = nn.Linear(400, 128)
        self.act = nn.SiLU()
        self.out = nn.Linear(128, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = nn.functional.avg_pool2d(y + torch.relu(self.second(y)), 2)
        if float(y.detach().sum()) > 1e9:
            y = y / 2
        return self.out(self.act(self.lead(y.flatten(1))))


def test_a_module_with_a_branch_on_the_data_is_read_as_it_runs():
    torch.manual_seed(0)
    model, inputs, labels = Own(), images(3), torch.tensor([0, 1, 2])
    found = FeatureInversion().run(
        model, gradient_of(model, inputs, labels), input_shape=(1, 10, 10)
    )
    gaps, order = distance(found, inputs)
    assert gaps.max() < 1e-3
    assert torch.equal(found.labels[order], labels)


def test_too_few_features_are_said_and_never_certified():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(4, 2),
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.Tanh(),
        nn.Linear(128, 4),
    )
    inputs = images(3)
    gradient = gradient_of(model, inputs, torch.tensor([0, 1, 2]))
    found = FeatureInversion(stage=10).run(model, gradient, input_shape=(1, 10, 10))
    assert not found.certified.any()
    assert "64 features do not determine 100 pixels" in found.info["reason"]
    assert distance(found, inputs)[0].max() > 1e-2
    nearest = torch.cdist(model[:4](inputs), found.features).argmin(1)
    torch.testing.assert_close(found.features[nearest], model[:4](inputs), rtol=1e-3, atol=1e-4)


def test_a_model_without_a_front_is_read_by_the_exact_attack():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 128), nn.GELU(), nn.Linear(128, 4))
    gradient = gradient_of(model, images(4), torch.tensor([0, 1, 2, 3]))
    own, exact = (
        attack.run(model, gradient, input_shape=(1, 10, 10))
        for attack in (FeatureInversion(), TensorAttack())
    )
    assert torch.equal(own.inputs, exact.inputs)


def test_a_model_without_a_hidden_layer_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    gradient = gradient_of(model, images(2), torch.tensor([0, 1]))
    with pytest.raises(NotApplicable, match="no Linear - elementwise activation - Linear"):
        FeatureInversion().run(model, gradient, input_shape=(1, 10, 10))


def test_the_model_and_global_state_stay_as_they_were():
    model = strided(nn.ReLU).train()
    gradient = gradient_of(model, images(2), torch.tensor([0, 1]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    FeatureInversion().run(model, gradient, input_shape=(1, 10, 10))
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(not m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def narrow():
    """64 features of 100 pixels, smooth, and 1,000 parameters in front of them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 10, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(10, 7, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(63, 128),
        nn.Tanh(),
        nn.Linear(128, 4),
    )


def test_too_few_smooth_features_are_joined_with_the_gradient_of_the_front():
    model, inputs, labels = narrow(), images(3), torch.tensor([0, 1, 2])
    gradient = gradient_of(model, inputs, labels)
    found = FeatureInversion().run(model, gradient, input_shape=(1, 10, 10))
    assert distance(found, inputs)[0].max() < 1e-3
    assert found.certified.all()
    alone = FeatureInversion(joint_steps=0).run(model, gradient, input_shape=(1, 10, 10))
    assert not alone.certified.any()


def test_dead_units_and_rounded_weights_do_not_hide_the_batch_size():
    model, inputs = strided(nn.ReLU), images(3)
    with torch.no_grad():
        model[5].bias[:64] = -10.0  # dead: their gradient is exactly zero
    gradient = gradient_of(model, inputs, torch.tensor([0, 1, 2]))
    sent = {n: p.detach() for n, p in model.named_parameters()}
    rounded = {n: (sent[n] - (sent[n] - 0.1 * g)) / 0.1 for n, g in gradient.items()}
    found = FeatureInversion().run(model, rounded, input_shape=(1, 10, 10))
    assert found.info["rank"] == 3
