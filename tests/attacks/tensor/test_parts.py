"""Each stage of the exact attack against a planted batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.tensor import sharpen as sharpen_module
from attacks.tensor.certificate import typical_phi, typical_turn
from attacks.tensor.gates import fit_gates
from attacks.tensor.gauss_newton import gauss_newton_step
from attacks.tensor.joint import observe, polish
from attacks.tensor.labels import batch_size
from attacks.tensor.linear_algebra import conjugate_gradients
from attacks.tensor.moments import moment_slices
from attacks.tensor.peeling import remainder
from attacks.tensor.search import NEAR, Candidates, SearchSettings, past_kinks, propose
from attacks.tensor.sharpen import sharpen
from attacks.tensor.smooth import alone, minimise
from attacks.tensor.starts import along_line, place, random_starts, tensor_starts
from attacks.tensor.subspace import LayerGradient, gradient_space, numerical_rank
from tests.attacks.tensor.planted import plant

SMOOTH = [nn.GELU(), nn.Tanh(), nn.Softplus(), nn.ELU()]


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-4])
@pytest.mark.parametrize("batch", [1, 6, 12])
def test_rank_is_the_batch_size(batch, noise):
    assert plant(nn.GELU(), batch=batch, size=60, noise=noise).space.rank == batch


@given(rank=st.integers(1, 20), seed=st.integers(0, 1000), level=st.floats(-7, -3))
@settings(max_examples=30, deadline=None)
def test_rank_of_a_noisy_matrix(rank, seed, level):
    g = torch.Generator().manual_seed(seed)
    matrix = torch.randn(120, rank, generator=g, dtype=torch.float64)
    matrix = matrix @ torch.randn(rank, 80, generator=g, dtype=torch.float64)
    matrix += 10**level * torch.randn(120, 80, generator=g, dtype=torch.float64)
    assert numerical_rank(torch.linalg.svdvals(matrix), 2.0**-53, 120) == rank


@given(
    faint=st.floats(4e-11, 2e-10), known=st.sampled_from([None, 4, 6]), seed=st.integers(0, 1000)
)
@settings(max_examples=30, deadline=None)
def test_errors_hidden_by_a_wide_gap_are_kept_in_mind(faint, known, seed):
    g = torch.Generator().manual_seed(seed)
    m, d, classes, batch = 13, 30, 8, 3

    def orthonormal(rows, columns):
        draw = torch.randn(rows, columns, generator=g, dtype=torch.float64)
        return torch.linalg.qr(draw).Q

    basis = orthonormal(classes, 6)
    strength = torch.tensor([1.0, 0.01, faint], dtype=torch.float64)
    layer = LayerGradient(
        weight=torch.randn(m, d, generator=g, dtype=torch.float64),
        gradient=orthonormal(m, batch) @ orthonormal(d, batch).T,
        outgoing=torch.randn(classes, m, generator=g, dtype=torch.float64),
        outgoing_gradient=(basis[:, :3] * strength) @ orthonormal(m, 3).T,
        biased=False,
        precision=1e-10,
        errors=basis[:, :known] if known else None,
    )
    space = gradient_space(layer)
    assert space.U.shape == (m, 2)
    assert space.wider is not None
    assert space.wider.shape == (m, known or 3)
    for inside in (space.U, layer.outgoing.T @ basis[:, 2:3]):
        rest = inside - space.wider @ (space.wider.T @ inside)
        assert rest.norm() < 1e-4 * inside.norm()


@pytest.mark.parametrize("function", [*SMOOTH, nn.ReLU(), nn.SELU()])
def test_equation_vanishes_at_samples_only(function):
    truth = plant(function)
    at_samples = truth.equation.evaluate(truth.points, truth.activation.slope)
    assert at_samples.phi.max() < 1e-6
    cosine = torch.cosine_similarity(at_samples.column, truth.columns).abs()
    assert cosine.min() > 1 - 1e-9
    elsewhere = truth.equation.evaluate(
        truth.points.flip(0) * 0.5 + truth.points * 0.5, truth.activation.slope
    )
    assert elsewhere.phi.min() > 1e-3


@pytest.mark.parametrize("function", [nn.Tanh(), nn.Sigmoid(), nn.ELU()])
def test_centred_equation_vanishes_at_samples_and_repels_equal_slopes(function):
    truth = plant(function)
    plain, centred = truth.equation, truth.equation_with(centred=True)
    assert centred.evaluate(truth.points, truth.activation.slope).phi.max() < 1e-6
    last = truth.space.last
    middle = (last / (last @ last))[None]  # the shortest input there is
    around = [e.evaluate(middle, truth.activation.slope).phi for e in (plain, centred)]
    assert around[1] > 2 * around[0]


def test_every_gate_pattern_on_a_line_occurs_once():
    g = torch.Generator().manual_seed(3)
    weight = torch.randn(30, 2, generator=g, dtype=torch.float64)
    last = torch.randn(2, generator=g, dtype=torch.float64)
    kinks = torch.tensor([-0.5, 0.3], dtype=torch.float64)
    points = along_line(weight, last, kinks)
    assert len(points) == 61
    assert torch.allclose(points @ last, torch.ones_like(points[:, 0]))
    patterns = torch.bucketize(points @ weight.T, kinks)
    steps = (patterns[1:] - patterns[:-1]).abs().sum(1)
    assert (steps == 1).all()  # neighbours differ by one unit at one kink


def test_last_two_samples_much_like_each_other_are_told_apart():
    truth = plant(nn.ReLU(), width=400, alike=0.03)
    columns = nn.functional.normalize(truth.columns, dim=1)
    rest = remainder(truth.space, columns[2:])
    found = propose(
        truth.space,
        truth.layer.weight @ truth.space.V @ rest.basis,
        rest,
        truth.activation,
        torch.Generator().manual_seed(0),
        SearchSettings(96, (0.15, 0.05), tensor_step=True),
        idle=1,
    )
    best = found.columns[found.phi.argsort()[:2]]
    assert (best @ columns[:2].T).abs().max(0).values.min() > 1 - 1e-9


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("function", SMOOTH)
def test_step_converges_quadratically(function, centred):
    truth = plant(function)
    equation = truth.equation_with(centred=centred)
    g = torch.Generator().manual_seed(1)
    away = torch.randn(truth.points.shape, generator=g, dtype=torch.float64) @ torch.eye(
        truth.space.rank, dtype=torch.float64
    )
    last = truth.space.last
    start = truth.points + 1e-2 * (away - (away @ last)[:, None] * last / (last @ last))
    state = equation.evaluate(start, truth.activation.slope)
    zero = torch.zeros(len(start), dtype=torch.float64)
    move = gauss_newton_step(equation, state, zero, 100, zero + 1e-12, torch.float64)
    assert (move @ last).abs().max() < 1e-12
    before = (start - truth.points).norm(dim=1)
    after = (start + move - truth.points).norm(dim=1)
    assert (after < 0.1 * before).all()


@pytest.mark.parametrize("function", SMOOTH)
def test_minimise_finds_samples_from_random_starts(function):
    truth = plant(function)
    X = random_starts(40, truth.space.S, truth.space.last, truth.space.norm, generator())
    X, phi = minimise(truth.equation, X, truth.activation.slope, NEAR)
    arrived = X[phi < 1e-7]
    assert len(arrived) > 5
    distance = torch.cdist(arrived, truth.points).min(1).values / truth.points.norm(dim=1).mean()
    assert distance.max() < 1e-5


def test_untrusted_rows_do_not_count():
    truth = plant(nn.GELU())
    rows = torch.rand(6, 200, generator=generator()) > 0.2
    first, second = truth.activation.slope(truth.points @ truth.equation.W.T)
    spoilt = torch.where(rows, first, first + 3)
    trust = truth.equation.trusting(rows)
    assert truth.equation.fit(spoilt, second, trust).phi.max() < 1e-6
    assert truth.equation.fit(spoilt, second).phi.min() > 1e-2


@pytest.mark.parametrize("function", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Hardtanh()])
def test_gates_are_repaired(function):
    truth = plant(function, width=300)
    z = truth.points @ truth.equation.W.T
    right = truth.activation.slope(z)[0]
    slopes = truth.activation.slopes
    wrong = torch.rand(right.shape, generator=generator()) < 0.03
    gates = torch.where(wrong, slopes.sum() - right, right)
    fit = fit_gates(truth.equation, gates, torch.ones_like(wrong), slopes)
    assert torch.allclose(fit.gates, right)
    assert fit.phi.max() < 1e-7


@pytest.mark.parametrize(("function", "odd"), [(nn.GELU(), False), (nn.Tanh(), True)])
def test_slices_have_the_samples_as_factors(function, odd):
    truth = plant(function, batch=3, size=12, width=4000)
    R, W = truth.space.Q * truth.space.S, truth.layer.weight @ truth.space.V
    slices = moment_slices(R, truth.space.U, W, odd=odd, generator=generator())
    assert torch.allclose(slices, slices.transpose(1, 2))
    guesses = tensor_starts(
        12, slices, truth.space.S, truth.space.last, truth.space.norm, generator()
    )
    cosine = torch.nn.functional.normalize(truth.points) @ torch.nn.functional.normalize(guesses).T
    assert cosine.max(1).values.min() > 0.8


def test_starts_satisfy_the_bias_coordinate():
    last = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    X = place(torch.randn(9, 3, generator=generator(), dtype=torch.float64), last, 4.0, generator())
    assert torch.allclose(X @ last, torch.ones(9, dtype=torch.float64))


def test_joint_polish_repairs_a_perturbed_batch():
    truth = plant(nn.GELU())
    seen = observe(truth.layer, truth.space, truth.activation)
    delta = truth.errors @ torch.linalg.pinv(truth.space.to_delta).T
    assert polish(seen, truth.points, delta, 0.0, steps=0).residual < 1e-12
    better = polish(seen, truth.points, delta * 1.001, 1e-13)
    assert better.residual < 1e-9
    assert torch.allclose(better.points, truth.points, atol=1e-6)


@given(n=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_conjugate_gradients_solve(n, seed):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(3, n, n, generator=g, dtype=torch.float64)
    A = A @ A.transpose(1, 2) + torch.eye(n, dtype=torch.float64)
    b = torch.randn(3, n, generator=g, dtype=torch.float64)
    x = conjugate_gradients(
        lambda p: (A @ p[:, :, None])[:, :, 0], b, 3 * n, torch.full((3,), 1e-12)
    )
    assert torch.allclose((A @ x[:, :, None])[:, :, 0], b, atol=1e-8)


def test_solved_systems_are_left_behind():
    g = torch.Generator().manual_seed(0)
    A = torch.diag_embed(torch.logspace(0, 2, 12, dtype=torch.float64)).repeat(8, 1, 1)
    A[2:] = torch.eye(12, dtype=torch.float64)  # solved at once; the first two take longer
    b = torch.randn(8, 12, generator=g, dtype=torch.float64)
    sizes = []

    def product(rows):
        def apply(p):
            sizes.append(len(p))
            return (A[rows] @ p[:, :, None])[:, :, 0]

        return apply

    everyone = torch.arange(8)
    x = conjugate_gradients(product(everyone), b, 40, torch.full((8,), 1e-10), product)
    assert torch.allclose((A @ x[:, :, None])[:, :, 0], b, atol=1e-8)
    assert sizes[0] == 8
    assert sizes[-1] < 8


def test_units_at_a_kink_do_not_spoil_a_column():
    truth = plant(nn.SELU())
    point = truth.points[:1]
    equation = truth.equation
    z = (point @ equation.W.T)[0]
    unit = int(z.abs().argmin())
    other_side = -1e-9 * z[unit].sign() - z[unit]  # as if the point were not quite right
    equation.W[unit] += other_side * point[0] / point.square().sum()
    state = equation.evaluate(point, truth.activation.slope)
    found = Candidates(point, state.column, state.delta, state.phi)
    mended = past_kinks(equation, truth.activation, found)
    assert found.phi > 1e-3
    assert mended.phi < 1e-9
    likeness = torch.cosine_similarity(mended.columns, truth.columns[:1])
    assert likeness.abs() > 1 - 1e-12


@pytest.mark.parametrize("function", SMOOTH)
def test_a_factor_that_is_kept_leads_to_the_same_sample(function, monkeypatch):
    truth = plant(function, noise=1e-6)
    g = torch.Generator().manual_seed(3)
    last = truth.space.last
    away = torch.randn(truth.points.shape, generator=g, dtype=torch.float64)
    start = truth.points + 1e-5 * (away - (away @ last)[:, None] * last / (last @ last))

    def run():
        equation = truth.equation
        return sharpen(
            equation,
            start,
            lambda at: equation.evaluate(at, truth.activation.slope),
            lambda state: typical_phi(truth.space, state.column),
            typical_turn(truth.space),
        )

    kept = run()
    monkeypatch.setattr(sharpen_module, "SIMILAR", 0.0)  # J'J is made anew for every step
    anew = run()
    size = truth.points.norm(dim=1)
    assert ((kept.points - anew.points).norm(dim=1) <= 0.1 * anew.error + 1e-12 * size).all()
    assert torch.allclose(kept.error, anew.error, rtol=0.1)


def test_alone_keeps_the_better_of_two():
    X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1e-6]])
    assert alone(X, torch.tensor([0.2, 0.3, 0.1]), 1e-4).tolist() == [False, True, True]


def test_batch_size_counts_copies():
    shares = torch.tensor([0.1, 0.2, 0.1, 0.3])
    assert batch_size(shares, 4)[0] == 7
    assert batch_size(shares, 4)[1].tolist() == [1, 2, 1, 3]
    assert batch_size(torch.tensor([0.1, 0.17]), 2)[0] == 2


def generator():
    return torch.Generator().manual_seed(7)
