"""Runs made up for the tests of what shows them: small random images, figures to match."""

import copy

import numpy as np

from fl_sim.records import EXACT, AttackRow, Gallery, Results, TrainingRow

SCENARIO = {
    "data": {"name": "fashion_mnist_mini", "partition": "iid", "alpha": 0.5},
    "clients": {"count": 4, "per_round": 2, "batch_size": 3, "reply": "weights", "local_steps": 1},
    "model": {"name": "mlp", "_target_": "x.MLP", "width": 64, "depth": 2, "activation": "gelu"},
    "strategy": {"name": "honest_but_curious", "_target_": "x.HonestButCurious"},
    "attack": {"name": "tensor", "knows": [], "method": {"_target_": "attacks.TensorAttack"}},
    "defense": {},
    "sweep": {"resume": True},
    "rounds": 1,
    "seed": 0,
}


def scenario(**changes):
    """Return a scenario with other values at dotted keys (written with two underscores)."""
    made = copy.deepcopy(SCENARIO)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = made
        for part in path:
            place = place[part]
        place[last] = value
    return made


def attacked(number, errors, certified=None, client=0, round_number=1, **row):
    """Return an AttackRow and its Gallery for images with these relative errors (None: missing)."""
    generator = np.random.default_rng(number)
    n = len(errors)
    truth = generator.random((n, 1, 6, 5), dtype=np.float32)
    there = np.array([e is not None for e in errors], dtype=bool)
    exact = np.array([e is not None and e <= EXACT for e in errors], dtype=bool)
    vouched = exact if certified is None else np.array(certified, dtype=bool)
    reconstruction = np.where(there[:, None, None, None], truth, np.nan).astype(np.float32)
    labels = np.arange(n, dtype=np.int64)
    record = AttackRow(
        round_number,
        client,
        "tensor",
        batch_size=n,
        estimated_batch_size=n,
        recovered=int(exact.sum()),
        certified=int(vouched.sum()),
        false_certificates=int((vouched & ~exact).sum()),
        label_accuracy=float(there.mean()) if n else None,
        psnr=[None if e is None else -20 * float(np.log10(e)) for e in errors],
        ssim=[None if e is None else 1 - min(1.0, e) for e in errors],
        relative_error=list(errors),
        seconds=1.5,
    )
    for name, value in row.items():
        setattr(record, name, value)
    nothing = np.zeros((0, 1, 6, 5), np.float32)
    gallery = Gallery(
        np.full(n, number),
        truth,
        reconstruction,
        labels,
        np.where(there, labels, -1),
        vouched,
        nothing,
        np.zeros(0, np.int64),
        np.zeros(0, bool),
    )
    return record, gallery


def write_run(folder, attacks=(), status="complete", message="", training=2, **changes):
    """Write the files of a run and return its Results."""
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(scenario(**changes), status=status, message=message, wall_seconds=3.0)
    results.training = [TrainingRow(r, 2.0 - 0.5 * r, 0.1 + 0.3 * r) for r in range(training)]
    gallery = Gallery.empty()
    for record, images in attacks:
        results.attacks.append(record)
        gallery = gallery + images
    results.save(folder)
    if attacks:
        gallery.save(folder)
    return results
