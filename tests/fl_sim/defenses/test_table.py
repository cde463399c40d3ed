"""One row per defence: it does what its definition says, it composes, and training still works."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import nn

from fl_sim.cli import config_folder
from fl_sim.client import train
from fl_sim.defenses import (
    Clip,
    DpSgd,
    Dropout,
    GaussianNoise,
    LabelNoise,
    LabelSmoothing,
    LocalDp,
    Mixup,
    Prune,
    Quantize,
    Sign,
    Soteria,
)
from fl_sim.defenses.accounting import epsilon_of
from fl_sim.defenses.base import total_norm
from fl_sim.defenses.soteria import sensitivity
from fl_sim.display import Display
from fl_sim.errors import ScenarioError
from fl_sim.federation import federation_of
from fl_sim.local import sample_gradients, step_gradient
from fl_sim.models import build_model
from fl_sim.scenario import plain, run_scenario


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 5))


def small_batch(count=8):
    target = nn.functional.one_hot(torch.randint(5, (count,), generator=seeded(1)), 5).float()
    return torch.randn(count, 1, 3, 4, generator=seeded(2)), target


def update(defense, seed=0, scale=1.0):
    given = {
        "w": torch.randn(200, 300, generator=seeded(3)),
        "b": 5 * torch.randn(300, generator=seeded(4)),
    }
    kept = {name: value.clone() for name, value in given.items()}
    sent = defense.on_update(given, scale, seeded(seed))
    assert all(torch.equal(given[name], kept[name]) for name in given), "its argument was changed"
    assert {name: v.shape for name, v in sent.items()} == {n: v.shape for n, v in given.items()}
    return given, sent


def gradient(*defenses, count=8, seed=0):
    model = small_model()
    for defense in defenses:
        defense.on_model(model, seeded(seed))
    return step_gradient(model, *small_batch(count), "cross_entropy", defenses, seeded(seed))[0]


def clip():
    given, sent = update(Clip(norm=2.5))
    assert float(total_norm(sent)) == pytest.approx(2.5, rel=1e-5)
    assert nn.functional.cosine_similarity(given["w"].flatten(), sent["w"].flatten(), 0) > 0.999999
    given, sent = update(Clip(norm=1e9))
    assert all(torch.equal(given[name], sent[name]) for name in given)


def gaussian_noise():
    given, sent = update(GaussianNoise(std=0.3))
    assert float((sent["w"] - given["w"]).std()) == pytest.approx(0.3, rel=0.02)
    given, sent = update(GaussianNoise(std=0.3, relative=True))
    ratio = float((sent["b"] - given["b"]).std() / given["b"].std())
    assert ratio == pytest.approx(0.3, rel=0.15)


def local_dp():
    defense = LocalDp(clipping_norm=2.0, sensitivity=2.0, epsilon=4.0, delta=1e-5)
    std = 2.0 * math.sqrt(2 * math.log(1.25e5)) / 4.0
    assert defense.std == pytest.approx(std)
    apart = LocalDp(clipping_norm=1.0, epsilon=4.0)
    assert apart.std == pytest.approx(std), "two updates clipped to 1 are 2 apart"
    assert defense.budget(1, 1, 0.1) == epsilon_of(std / 4.0, 1, 1.0, 1e-5)
    assert LocalDp(clipping_norm=3.0, epsilon=0.5).budget(1, 1, 1.0) < 0.5
    before = np.random.get_state()[1].copy()
    _, sent = update(defense, scale=0.1)
    assert (np.random.get_state()[1] == before).all(), "numpy's generator was left changed"
    assert float(sent["w"].std()) * 0.1 == pytest.approx(std, rel=0.02)
    _, quiet = update(LocalDp(clipping_norm=2.0, sensitivity=0.0), scale=0.1)
    assert float(total_norm(quiet)) * 0.1 == pytest.approx(2.0, rel=1e-4)
    _, again = update(defense, scale=0.1)
    assert torch.equal(again["w"], sent["w"]), "the same seed gave other noise"
    assert (
        defense.budget(2, 2, 0.1)
        > defense.budget(1, 1, 0.1)
        > LocalDp(epsilon=0.5).budget(1, 1, 0.1)
    )


def dp_sgd():
    each, _ = sample_gradients(small_model(), *small_batch(), "cross_entropy")
    mean = gradient()
    assert all(torch.allclose(each[name].mean(0), mean[name], atol=1e-6) for name in mean)
    clipped = DpSgd(clipping_norm=0.5).on_samples(each, seeded())
    norms = torch.stack([g.flatten(1).square().sum(1) for g in clipped.values()]).sum(0).sqrt()
    assert float(norms.max()) <= 0.5 * (1 + 1e-5)
    assert float(norms.min()) > 0.49, "every sample's gradient was longer than the bound"
    untouched = gradient(DpSgd(clipping_norm=1e6, noise_multiplier=0))
    assert all(torch.allclose(untouched[name], mean[name], atol=1e-6) for name in mean)
    quiet, noisy = (gradient(DpSgd(0.5, noise_multiplier=s)) for s in (0, 4.0))
    noise = torch.cat([(noisy[name] - quiet[name]).flatten() for name in mean])
    assert float(noise.std()) == pytest.approx(4.0 * 0.5 / 8, rel=0.1)
    budgets = [DpSgd(noise_multiplier=s).budget(3, 30, 0.1) for s in (0.0, 0.5, 1.0, 2.0)]
    assert budgets[0] == math.inf
    assert budgets == sorted(budgets, reverse=True)


def prune():
    given, sent = update(Prune(keep=0.05))
    for name, value in given.items():
        kept = sent[name] != 0
        assert int(kept.sum()) == round(0.05 * value.numel())
        assert torch.equal(sent[name][kept], value[kept])
        assert value[kept].abs().min() >= value[~kept].abs().max()


def quantize():
    given, sent = update(Quantize(bits=3))
    for name, value in given.items():
        levels = sent[name].unique()
        assert len(levels) == 8
        assert float(levels.diff().std() / levels.diff().mean()) < 1e-5, "levels are not even"
        assert (sent[name] - value).abs().max() <= levels.diff().max() * 1.0001
    many = torch.stack([update(Quantize(bits=1), seed=s)[1]["w"] for s in range(60)])
    error = (many.mean(0) - given["w"]).mean()
    assert abs(float(error)) < 4 * float(many.std()) / math.sqrt(many.numel()), "rounding is biased"
    zero = {"w": torch.zeros(3)}
    assert torch.equal(Quantize().on_update(zero, 1.0, seeded())["w"], zero["w"])


def sign():
    given, sent = update(Sign())
    for name, value in given.items():
        assert torch.equal(sent[name].sign(), value.sign())
        assert len(sent[name].abs().unique()) == 1
        assert float(sent[name].abs().mean()) == pytest.approx(float(value.abs().mean()), rel=1e-5)


def dropout():
    plain = gradient(count=1)
    dropped = gradient(Dropout(rate=0.75), count=1)
    dead = (dropped["3.weight"] == 0).all(0)
    assert 20 < int(dead.sum()) < 38, "about 30 of 40 hidden units are off"
    assert (dropped["1.weight"][dead] == 0).all()
    assert (dropped["1.weight"][~dead] != 0).any()
    none = gradient(Dropout(rate=0.0), count=1)
    assert all(torch.allclose(none[name], plain[name]) for name in plain)
    other = gradient(Dropout(rate=0.75), count=1, seed=1)
    assert not torch.equal(other["3.weight"] == 0, dropped["3.weight"] == 0)


def soteria():
    plain, defended = gradient(), gradient(Soteria(prune=0.25))
    pruned = (defended["3.weight"] == 0).all(0)
    assert int(pruned.sum()) == 10
    assert torch.equal(defended["3.weight"][:, ~pruned], plain["3.weight"][:, ~pruned])
    assert all(torch.equal(defended[n], plain[n]) for n in plain if n != "3.weight")
    model, (inputs, _) = small_model(), small_batch()
    hidden, layer = model[1], model[3]
    scores = torch.zeros(40)
    for x in inputs:
        r = torch.tanh(hidden(x.flatten()))
        slope = (1 - r**2)[:, None] * hidden.weight
        expected = r.abs() / slope.norm(dim=1)
        assert torch.allclose(sensitivity(model, layer, x), expected, rtol=1e-4)
        scores += expected
    assert scores[pruned].min() > scores[~pruned].max()


def mixup():
    inputs = torch.eye(64).reshape(64, 1, 8, 8)
    mixed, soft = Mixup(alpha=1.0).on_batch(inputs, torch.eye(64), seeded())
    assert torch.equal(mixed.flatten(1), soft), "inputs and targets are blended alike"
    assert torch.allclose(soft.sum(1), torch.ones(64))
    assert int((soft > 0).sum(1).max()) == 2
    own = soft.diagonal()
    assert float(own.mean()) == pytest.approx(0.5, abs=0.1)
    picked, _ = Mixup(alpha=1e-4).on_batch(inputs, torch.eye(64), seeded())
    assert float((picked.flatten(1).max(1).values > 0.999).float().mean()) > 0.95


def label_smoothing():
    inputs, target = small_batch()
    same, smooth = LabelSmoothing(amount=0.2).on_batch(inputs, target, seeded())
    assert torch.equal(same, inputs)
    assert torch.allclose(smooth, 0.8 * target + 0.04)
    assert torch.allclose(smooth.sum(1), torch.ones(8))


def label_noise():
    inputs, target = small_batch(4000)
    same, noisy = LabelNoise(share=0.5).on_batch(inputs, target, seeded())
    assert torch.equal(same, inputs)
    assert torch.equal(noisy.sum(1), torch.ones(4000))
    changed = (noisy != target).any(1).float().mean()
    assert float(changed) == pytest.approx(0.5 * 4 / 5, abs=0.04), "one in five drawn is the same"


def central_dp():
    """Acts on the server; see test_central_dp.py."""


@dataclass
class Row:
    """A defence under test: what it claims, settings that train, whether the server still reads."""

    claims: Callable[[], None]
    gentle: str = ""
    read: int | None = None  # images of 8 still read at those settings, None: not asked


ROWS = {
    "clip": Row(clip, "defense.clip.norm=1", read=8),
    "gaussian_noise": Row(gaussian_noise, "defense.gaussian_noise.std=1", read=0),
    "local_dp": Row(local_dp, "defense.local_dp.sensitivity=0.001", read=0),
    "dp_sgd": Row(dp_sgd, "defense.dp_sgd.noise_multiplier=0 defense.dp_sgd.clipping_norm=5", 8),
    "prune": Row(prune, "defense.prune.keep=0.5"),
    "quantize": Row(quantize, "defense.quantize.bits=8"),
    "sign": Row(sign),
    "dropout": Row(dropout, "defense.dropout.rate=0.2"),
    "soteria": Row(soteria),
    "mixup": Row(mixup),
    "label_smoothing": Row(label_smoothing, read=8),
    "label_noise": Row(label_noise, read=8),
    "central_dp": Row(central_dp, "defense.central_dp.noise_multiplier=0.01", read=8),
}

SMALL = ["tracker=none", "clients.batch_size=4", "model.width=256", "rounds=1"]


def test_the_table_has_every_defence():
    files = {path.stem for path in config_folder().glob("defense/*.yaml")}
    assert files == set(ROWS) | {"none"}


@pytest.mark.parametrize("name", ROWS)
def test_it_does_what_its_definition_says(name):
    ROWS[name].claims()


def last_loss(scenario, folder, *overrides):
    folder.mkdir()
    results = run_scenario(scenario(*SMALL, *overrides), folder, Display(brief=True))
    assert results.status == "complete"
    assert [row.status for row in results.attacks] == ["ok"] * len(results.attacks)
    return results


@pytest.mark.parametrize("reply", ["weights", "gradient"])
@pytest.mark.parametrize("name", ROWS)
def test_it_runs_and_leaves_what_the_table_says(scenario, tmp_path, name, reply):
    if name == "central_dp" and reply == "gradient":
        pytest.skip("Flower's wrapper clips differences of weights; the scenario refuses this.")
    row = ROWS[name]
    settings = [f"defense={name}", f"clients.reply={reply}", *row.gentle.split()]
    results = last_loss(scenario, tmp_path / "run", *settings)
    assert math.isfinite(results.training[-1].loss)
    if row.read is not None:
        assert results.summary()["recovered"] == row.read


# Noise at which `Row.read` is 0 but nothing is learned in six rounds gives way to gentler noise.
TRAINS = {name: row.gentle for name, row in ROWS.items()} | {
    "gaussian_noise": "defense.gaussian_noise.std=0.01",
    "local_dp": "defense.local_dp.epsilon=10000",
}


@pytest.mark.parametrize("name", TRAINS)
def test_training_still_works(scenario, tmp_path, name):
    settings = [
        "attack=none", "rounds=6", "clients.batch_size=32", f"defense={name}",
        "clients.local_steps=3", *TRAINS[name].split(),
    ]  # fmt: skip
    results = last_loss(scenario, tmp_path / "run", *settings)
    assert results.training[-1].loss < results.training[0].loss - 0.2


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ("defense=prune defense.prune.keep=0", "keep=0"),
        ("defense=quantize defense.quantize.bits=0", "bits=0"),
        ("defense=dropout defense.dropout.rate=1", "rate=1"),
        ("defense=soteria defense.soteria.prune=2", "prune=2"),
        ("defense=mixup defense.mixup.alpha=0", "alpha=0"),
        ("defense=label_noise defense.label_noise.share=-1", "share=-1"),
        ("defense=label_smoothing defense.label_smoothing.amount=3", "amount=3"),
        ("defense=local_dp defense.local_dp.epsilon=0", "epsilon=0"),
        ("defense=local_dp defense.local_dp.clipping_norm=0", "clipping norm"),
        ("defense=dp_sgd defense.dp_sgd.noise_multiplier=-1", "noise_multiplier=-1"),
        ("defense=central_dp clients.reply=gradient", "clients.reply=weights"),
    ],
)
def test_a_bad_strength_is_refused_by_name(scenario, tmp_path, overrides, named):
    with pytest.raises(ValueError, match=named):
        run_scenario(scenario(*SMALL, *overrides.split()), tmp_path, Display(brief=True))


BATCHNORM = ["model=resnet18", "model.norm=batch", "model.channels=4", "attack=none"]


def test_buffers_are_no_part_of_an_update(scenario, tmp_path):
    """Running statistics have no gradient: noise or a bound for gradients would spoil them."""
    noise = ["defense=gaussian_noise", "defense.gaussian_noise.std=10", "clients.lr=1e-4"]
    noisy = last_loss(scenario, tmp_path / "noise", *BATCHNORM, *noise)
    assert math.isfinite(noisy.training[-1].loss)
    replies = []
    for defense in ("none", "clip"):
        config = plain(scenario(*SMALL, *BATCHNORM, f"defense={defense}", "device=cpu"))
        federation = federation_of(config)
        model = build_model(config["model"], federation.data.image_shape, 10, 0)
        sent = ArrayRecord(model.state_dict())
        content = RecordDict({"arrays": sent, "config": ConfigRecord({"server-round": 1})})
        replies.append(train(config, content, 0)["arrays"].to_torch_state_dict())
    free, clipped = replies
    before = model.state_dict()
    names = {name for name, _ in model.named_parameters()}
    assert all(torch.equal(free[k], clipped[k]) for k in before if k not in names)
    moved = {k: before[k] - clipped[k] for k in names}
    assert float(total_norm(moved)) == pytest.approx(config["clients"]["lr"] * 1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "reply", "named"),
    [
        ("local_dp", "weights", "running_mean"),
        ("central_dp", "weights", "running_mean"),
        ("dp_sgd", "weights", "batch normalisation mixes"),
        ("dp_sgd", "gradient", "batch normalisation mixes"),
    ],
)
def test_a_promise_that_buffers_would_break_is_refused(scenario, tmp_path, name, reply, named):
    config = scenario(*SMALL, *BATCHNORM, f"defense={name}", f"clients.reply={reply}")
    with pytest.raises(ScenarioError, match=named):
        run_scenario(config, tmp_path, Display(brief=True))


def test_gradients_hold_no_buffers_so_local_dp_can_protect_them(scenario, tmp_path):
    settings = [*BATCHNORM, "defense=local_dp", "clients.reply=gradient"]
    last_loss(scenario, tmp_path / "run", *settings)


def test_the_order_given_is_the_order_of_work(scenario, tmp_path):
    """Noise after clipping exceeds the bound; clipping after noise holds it."""
    given = {"w": torch.randn(100, 100, generator=seeded())}
    clip, noise = Clip(norm=1.0), GaussianNoise(std=1.0)
    clipped_last = clip.on_update(noise.on_update(given, 1, seeded()), 1, seeded())
    noise_last = noise.on_update(clip.on_update(given, 1, seeded()), 1, seeded())
    assert float(total_norm(clipped_last)) == pytest.approx(1.0, rel=1e-5)
    assert float(total_norm(noise_last)) > 50
