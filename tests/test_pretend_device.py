"""The pretend accelerator refuses what CUDA refuses, and nothing else."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from tests.pretend_device import DEVICE, PretendGenerator, PretendTensor, pretending


@pytest.fixture(autouse=True)
def device():
    with pretending():
        yield DEVICE


def here(*shape):
    return torch.arange(1.0, 1 + math.prod(shape)).square().cos().reshape(shape)


def there(*shape):
    return here(*shape).to(DEVICE)


def weights():
    return there(3, 3)


def assign(x, index, y):
    x[index] = y


MIXING = {
    "sum": lambda: there(3) + here(3),
    "sum with a scalar of the accelerator": lambda: there() + here(3),
    "matrix product": lambda: there(3, 3) @ here(3, 3),
    "matrix product within vmap": lambda: vmap(lambda v: here(3, 3) @ v)(there(4, 3)),
    "dot product of one element": lambda: there(1).dot(here(1)),
    "stack": lambda: torch.stack([there(3), here(3)]),
    "stack of scalars": lambda: torch.stack([there(), here()]),
    "where": lambda: torch.where(there(3) > 0, here(3), 0.0),
    "written into the CPU": lambda: here(3).add_(there(3)),
    "written into a scalar of the CPU": lambda: here().add_(there()),
    "solve": lambda: torch.linalg.solve(there(3, 3), here(3)),
    "distances": lambda: torch.cdist(there(2, 3), here(2, 3)),
    "convolution": lambda: nn.functional.conv2d(there(1, 1, 4, 4), here(1, 1, 3, 3)),
    "model and inputs": lambda: nn.Linear(3, 2).to(DEVICE)(here(1, 3)),
    "targets": lambda: nn.functional.cross_entropy(there(1, 3), torch.tensor([1])),
    "equal": lambda: torch.equal(there(3), here(3)),
    "indices of the accelerator": lambda: here(3)[there(3).argsort()],
    "gather from the CPU": lambda: here(3).gather(0, there(3).argsort()),
    "gather by the CPU": lambda: there(3).gather(0, here(3).argsort()),
    "index_select": lambda: there(3).index_select(0, here(3).argsort()),
    "assigned by index": lambda: assign(there(3), torch.tensor([0, 1]), here(2)),
    "masked": lambda: there(3).masked_fill(here(3) > 0, 0.0),
    "tangent": lambda: jvp(torch.sin, (there(3),), (here(3),)),
    "generator of the CPU": lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
    "generator of the accelerator": lambda: torch.rand(3, generator=PretendGenerator()),
    "normal_": lambda: there(3).normal_(generator=torch.Generator()),
    "NumPy": lambda: there(3).numpy(),
    "NumPy's asarray": lambda: np.asarray(there(3)),
    "integer matrices": lambda: (
        torch.ones(3, 3, dtype=torch.int64, device=DEVICE) @ there(3).long()
    ),
    "least squares": lambda: torch.linalg.lstsq(there(4, 3), there(4, 1), driver="gelsd"),
}


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
def test_what_cuda_refuses_raises(mix):
    with pytest.raises((RuntimeError, TypeError), match=r"device|lazy|CUDA"):
        mix()


ALLOWED = {
    "scalar of the CPU": lambda: there(3) * here(),
    "where with a scalar": lambda: torch.where(there(3) > 0, here(), 0.0),
    "indices of the CPU": lambda: there(3)[torch.tensor([0, 2])],
    "mask of the CPU": lambda: there(3)[torch.tensor([True, False, True])],
    "assigned by indices of the CPU": lambda: there(3).index_put((torch.tensor([0]),), here()),
    "copied": lambda: there(3).copy_(here(3)),
    "assigned to a slice": lambda: there(3)[:2].copy_(here(2)),
    "moved": lambda: here(3).to(DEVICE),
    "like another": lambda: here(3).to(there(1)),
    "new": lambda: there(1).new_zeros(3),
    "tensor": lambda: torch.tensor([1.0, 2.0], device=DEVICE),
    "squeezed within a product": lambda: there(3) @ there(3, 2),
    "singular values": lambda: torch.linalg.svd(there(4, 3)).S,
    "eigenvectors": lambda: torch.linalg.eigh(weights() @ weights().T).eigenvectors,
    "triangular": lambda: torch.linalg.solve_triangular(weights(), there(3, 1), upper=True),
    "cholesky": lambda: torch.linalg.cholesky_ex(weights() @ weights().T)[0],
    "orthogonal": lambda: torch.linalg.qr(there(4, 3)).Q,
    "solved": lambda: torch.linalg.lstsq(there(4, 3), there(4, 1)).solution,
    "gradient": lambda: grad(lambda v: v.sin().sum())(there(3)),
    "gradients within vmap": lambda: vmap(grad(lambda v: (weights() @ v).sin().sum()))(there(4, 3)),
    "tangents": lambda: jvp(lambda v: (weights() @ v).sin(), (there(3),), (there(3),))[1],
    "cotangents": lambda: vjp(lambda v: weights() @ v, there(3))[1](there(3))[0],
    "jacobian backwards": lambda: jacrev(lambda v: (weights() @ v).sin())(there(3)),
    "jacobian forwards": lambda: jacfwd(lambda v: (weights() @ v).sin())(there(3)),
    "hessian": lambda: hessian(lambda v: (weights() @ v).sin().sum())(there(3)),
}


@pytest.mark.parametrize("compute", ALLOWED.values(), ids=ALLOWED)
def test_what_cuda_allows_is_computed_there(compute):
    found = compute()
    assert isinstance(found, PretendTensor)
    assert found.device == DEVICE
    assert found.shape == found.kept.shape


def test_the_values_are_the_cpus():
    assert torch.equal((there(3) + 1).cpu(), here(3) + 1)
    assert there(3).tolist() == here(3).tolist()
    assert f"{there():.3f}" == f"{float(here()):.3f}"


def test_views_share_their_values():
    x = there(3, 3)
    x[:, 1] += 1
    assert torch.equal(x.cpu()[:, 1], here(3, 3)[:, 1] + 1)


def test_a_copy_on_the_cpu_is_of_the_cpu():
    x = there(3)
    copies = x.cpu(), torch.zeros(3).copy_(x)
    x.zero_()
    assert all(torch.equal(y, here(3)) for y in copies)


def test_models_are_trained_copied_and_cast_there():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    other = copy.deepcopy(model)
    for module, place in ((model, DEVICE), (other, torch.device("cpu"))):
        module.to(place)
        optimizer = torch.optim.LBFGS(module.parameters(), max_iter=3)

        def loss(module=module, optimizer=optimizer, place=place):
            optimizer.zero_grad()
            output = module(here(2, 1, 4, 4).to(place))
            value = nn.functional.cross_entropy(output, torch.tensor([0, 2]).to(place))
            value.backward()
            return value

        optimizer.step(loss)
    assert model[0].weight.grad.device == DEVICE
    assert all(torch.equal(v.cpu(), other.state_dict()[k]) for k, v in model.state_dict().items())
    cast = copy.deepcopy(model).double()
    assert cast[0].weight.kept.dtype == torch.float64
    assert model[0].weight.kept.dtype == torch.float32
    assert isinstance(cast[0].weight, nn.Parameter)
