"""Images behind a transformer block: tokens, patches, images, and what is said where it fails."""

import pytest
import torch
from torch import nn

from attacks import FeatureInversion
from attacks.base import Knowledge, NotApplicable, Problem
from attacks.features.front import Front
from attacks.features.tokens.block import find_block
from attacks.features.tokens.closed_form import assign, solve_patches
from attacks.features.tokens.grouping import group
from attacks.tensor.layers import find_linear_pairs


class Foreign(nn.Module):
    """Nobody's transformer: other names, patches by reshaping, one head, a class token or none."""

    def __init__(self, norm, class_token=True, bias=True, dim=64, patch=4, dropout=0.0):
        super().__init__()
        self.patch = patch
        self.lift = nn.Linear(patch * patch, dim)
        count = (12 // patch) ** 2 + class_token
        self.place = nn.Parameter(0.1 * torch.randn(1, count, dim))
        self.start = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.one, self.two = norm(dim), norm(dim)
        self.ask, self.offer = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.back = nn.Linear(dim, dim, bias=bias)
        self.drop = nn.Dropout(dropout)
        self.think = nn.Sequential(nn.Linear(dim, 160), nn.GELU(), nn.Linear(160, dim))
        self.again = nn.Sequential(norm(dim), nn.Linear(dim, dim), nn.Tanh())
        self.out = nn.Linear(dim, 5)

    def forward(self, x):
        p = self.patch
        u = self.lift(nn.functional.unfold(x, p, stride=p).transpose(1, 2))
        if self.start is not None:
            u = torch.cat([self.start.expand(len(x), -1, -1), u], 1)
        u = u + self.place
        n = self.one(u)
        query, key = self.ask(n).chunk(2, -1)
        weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
        v = u + self.drop(self.back(weights @ self.offer(n)))
        v = v + self.think(self.two(v))
        v = v + v.mean(1, keepdim=True) + self.again(v)
        return self.out(v.mean(1) if self.start is None else v[:, 0])


def images(count):
    """Smooth random pictures of 12 x 12 pixels."""
    coarse = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, (12, 12), mode="bilinear", align_corners=True)


def gradient_of(model, inputs, labels):
    loss = nn.functional.cross_entropy(model(inputs), labels)
    slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(model.named_parameters(), slopes, strict=True)
    }


def made(count, **settings):
    torch.manual_seed(0)
    model = Foreign(**{"norm": nn.LayerNorm} | settings).eval()
    inputs, labels = images(count), torch.arange(count) % 5
    return model, inputs, labels, gradient_of(model, inputs, labels)


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm": nn.RMSNorm}, {"class_token": False}, {"bias": False}, {"dropout": 0.5}],
    ids=["layer norm", "root mean square norm", "mean pooling", "no bias", "dropout"],
)
def test_images_behind_a_foreign_transformer_are_exact_and_certified(settings):
    model, inputs, labels, gradient = made(2, **settings)
    found = FeatureInversion().run(model, gradient, input_shape=(1, 12, 12))
    gap = torch.cdist(inputs.flatten(1), found.inputs.flatten(1))
    error, nearest = (gap / inputs.flatten(1).norm(dim=1, keepdim=True)).min(1)
    assert error.max() < 1e-2
    # who knows that the client did not train with dropout in front?
    assert found.certified.all() == ("dropout" not in settings)
    assert found.certified.any() == ("dropout" not in settings)
    assert torch.equal(found.labels[nearest], labels)
    true = Front(model, "think.0", torch.float32)(inputs).flatten(1)
    torch.testing.assert_close(found.features[nearest], true, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_patches_positions_and_images_follow_from_true_tokens(norm):
    model, inputs, _, gradient = made(4, norm=norm)
    problem = Problem(model, gradient, (1, 12, 12), "cross_entropy", Knowledge(), torch.Generator())
    (pair, *_) = find_linear_pairs(model, (1, 12, 12))
    block = find_block(model, pair, (1, 12, 12))
    assert block.project == "back"
    assert block.norm.centred == (norm is nn.LayerNorm)
    assert [len(block.pixels(t)) for t in range(10)] == [0] + [16] * 9
    with torch.no_grad():
        tokens = Front(model, pair.hidden, torch.float64)(inputs.double()).reshape(40, -1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    patches = solve_patches(problem, pair, block, tokens[order])
    assert torch.equal(patches.position, order % 10)
    assert patches.misfit.max() < 0.1 * patches.second.min()
    found = group(patches, Front(model, block.project, torch.float32), (1, 12, 12), 4)
    error = torch.cdist(inputs.flatten(1).double(), found.double()).min(1).values
    assert error.max() < 0.05 * inputs.flatten(1).norm(dim=1).min()


def test_a_patch_as_large_as_a_token_is_refused_with_its_reason():
    model, _, _, gradient = made(2, dim=16)
    found = FeatureInversion().run(model, gradient, input_shape=(1, 12, 12))
    assert len(found) == 0
    assert found.batch_size == 2
    assert "reason" in found.info


def test_more_tokens_than_the_layer_is_wide_are_said():
    model, _, _, gradient = made(8)
    found = FeatureInversion().run(model, gradient, input_shape=(1, 12, 12))
    assert len(found) == 0
    assert "tokens each" in found.info["reason"]


def test_a_block_without_a_norm_is_not_taken_for_one():
    model, _, _, _ = made(2, norm=lambda dim: nn.Linear(dim, dim))
    pair = next(p for p in find_linear_pairs(model, (1, 12, 12)) if p.hidden == "think.0")
    with pytest.raises(NotApplicable, match="standardises no tokens"):
        find_block(model, pair, (1, 12, 12))


def test_rows_are_assigned_cheapest_first_within_capacity():
    cost = torch.tensor([[0.0, 1.0], [0.1, 5.0], [2.0, 0.5], [0.2, 0.9]])
    assert assign(cost, 2).tolist() == [0, 0, 1, 1]


def test_tokens_that_rounding_hides_are_not_searched_for(monkeypatch):
    def searched(*_):
        raise AssertionError("the tokens were searched for")

    monkeypatch.setattr("attacks.features.tokens.inversion.read_features", searched)
    model, inputs, labels, _ = made(3)
    twice = torch.cat([inputs, inputs[:1]])  # the same tokens again
    gradient = gradient_of(model, twice, torch.cat([labels, labels[:1]]))
    knows = Knowledge(batch_size=4)
    found = FeatureInversion().run(model, gradient, input_shape=(1, 12, 12), knows=knows)
    assert len(found) == 0
    assert found.info["rank"] == 30
    assert "tells 30 of them apart" in found.info["reason"]
    assert "singular value 30" in found.info["reason"]
