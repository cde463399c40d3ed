"""Gates within rounding of a kink are taken from the gradient, and only those."""

import pytest
import torch

from attacks.tensor.activation import probe
from attacks.tensor.equation import SampleEquation
from attacks.tensor.rounding import evaluate_as_client, rounding_of

M, B, K = 60, 4, 3


def planted(distance):
    """One-batch columns whose first sample's first gate was flipped at |z| = `distance`."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    weight, points = draw(M, B), draw(B, B)
    z = weight[0] @ points[0]
    weight[0] -= (z - distance) * points[0] / points[0].square().sum()  # now z = distance > 0
    U = torch.linalg.qr(draw(M, K)).Q
    gates = (points @ weight.T > 0).double()
    gates[0, 0] = 0.0  # the client's arithmetic said z <= 0
    columns = gates * (draw(B, K) @ U.T)
    Q = torch.linalg.qr(columns.T).Q
    return SampleEquation(Q, U, weight, None), points, weight


@pytest.mark.parametrize(("distance", "settled"), [(1e-8, True), (1e-3, False)])
def test_a_gate_is_settled_only_within_rounding(distance, settled):
    equation, points, weight = planted(distance)
    relu = probe(torch.relu)
    state = evaluate_as_client(equation, relu, points, rounding_of(weight, points, 6e-8))
    plain = equation.evaluate(points, relu.slope)
    assert plain.phi[0] > 1e-3
    assert torch.all(plain.phi[1:] < 1e-9)
    assert (state.phi[0] < 1e-9) == settled
    assert torch.all(state.phi[1:] < 1e-9)


def test_without_kinks_nothing_changes():
    equation, points, weight = planted(1e-8)
    tanh = probe(torch.tanh)
    state = evaluate_as_client(equation, tanh, points, rounding_of(weight, points, 6e-8))
    assert torch.equal(state.phi, equation.evaluate(points, tanh.slope).phi)
