"""From a gradient to features, from features to pixels: the exact attack behind any front end.

Convolutions before the first Linear - activation - Linear hide the images from the exact attack,
but not what the convolutions make of them. It reads those features, per sample; what is left is to
invert a known function, one image at a time. A descent finds the image (`images`), Gauss-Newton
on equations that hold up to rounding makes it exact and says whether it is the only one (`newton`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attacks.base import Attack, Problem, Reconstruction, in_layers
from attacks.features.descent import descend
from attacks.features.diagnosis import response, spoken
from attacks.features.front import Front, tail_of
from attacks.features.images import Descents, Images, count_kinks, search
from attacks.features.joint import Joint, joint_equations, solve_jointly
from attacks.features.judging import as_the_layer_saw, assemble
from attacks.features.mixing import read_together
from attacks.features.newton import Solved, Span, polish
from attacks.features.objective import FeatureMatch
from attacks.features.pairs import readable_pair, refuse_company
from attacks.features.reading import Features, read_features, row_space
from attacks.features.tokens import invert_tokens
from attacks.reading.conduct import conduct
from attacks.reading.inputs import drawing, resolve_input_shape
from attacks.reading.modular import name_before
from attacks.settings import count, listed, number, positive, weight
from attacks.tensor.attack import TensorAttack
from attacks.tensor.layers import LinearPair, find_linear_pairs

TRUSTING = 5
"""Joint steps that take the features as read before their mixing is solved for as well."""


class FeatureInversion(Attack):
    """Exact features at an inner Linear - activation - Linear, and the images behind them.

    A model that begins with such a pair is handed to the exact attack as it is.

    Parameters
    ----------
    iterations : int, default 250
        Evaluations of a descent on the true front end.
    stage : int, default 100
        Evaluations of each stage of the homotopy over smoothed front ends.
    widths : sequence of float
        Of the smoothing, in standard deviations of the features.
    levels : sequence of float
        Grey levels, in the model's input space, to start from.
    tv : float, default 1e-4
        Weight of the total variation.
    rounds : int, default 3
        Most rounds of patchworks of images that no level solved.
    joint_steps : int, default 20
        Levenberg-Marquardt steps on a whole batch, where smooth features are too few alone.
    candidates : int, default 96
        Of the exact attack, see `TensorAttack`.
    patience : int, default 10
        Of the exact attack.
    """

    def __init__(
        self,
        iterations: int = 250,
        stage: int = 100,
        widths: Sequence[float] = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015, 0.007),
        levels: Sequence[float] = (0.3, -0.5, 0.0, 1.0),
        tv: float = 1e-4,
        rounds: int = 3,
        joint_steps: int = 20,
        candidates: int = 96,
        patience: int = 10,
    ) -> None:
        self.iterations = count("iterations", iterations)
        self.stage = count("stage", stage)
        self.widths = tuple(positive("widths", width) for width in listed("widths", widths))
        self.levels = tuple(number("levels", level) for level in listed("levels", levels))
        self.tv = weight("tv", tv)
        self.rounds = count("rounds", rounds)
        self.joint_steps = count("joint_steps", joint_steps, least=0)
        self.candidates = count("candidates", candidates)
        self.patience = count("patience", patience)

    def reconstruct(self, problem: Problem) -> Reconstruction:
        """Reconstruct the batch; see `Attack.run`."""
        problem = in_layers(problem)
        exact = TensorAttack(self.candidates, self.patience)
        pairs = find_linear_pairs(problem.model, problem.input_shape)
        if any(pair.at_input for pair in pairs):
            return exact.reconstruct(problem)
        shape = resolve_input_shape(problem.model, problem.input_shape)
        draw = drawing(problem.model, shape)
        rewritten = in_layers(problem, unsteady=True)
        if rewritten is not problem:
            pairs = find_linear_pairs(rewritten.model, problem.input_shape)
        pair, per_image = readable_pair(rewritten, pairs, shape)
        layer = pair.hidden
        if rewritten is not problem:
            layer = name_before(rewritten.model, layer)
        reason = conduct(problem.model, layer, draw).reason
        if reason is not None:
            refuse_company(rewritten, pair, shape, reason)
        found = self._read(rewritten, pair, per_image, shape, exact)
        shown = name_before(problem.model, layer)
        return found if reason is None else as_the_layer_saw(found, shown, reason)

    def _read(
        self,
        problem: Problem,
        pair: LinearPair,
        per_image: bool,
        shape: tuple[int, ...],
        exact: TensorAttack,
    ) -> Reconstruction:
        """Features and images, as if the front were a function of one image."""
        empty = problem.gradient[f"{pair.hidden}.weight"].new_zeros(0, *shape)
        try:
            if not per_image:
                return invert_tokens(problem, pair, shape, exact)
            tail = tail_of(problem.model, pair, shape)
            features = read_features(problem, pair, tail, exact)
            features = read_together(problem, pair, tail, features)
        except KeyboardInterrupt:
            reason = f"The attack was stopped while it read what {pair.hidden!r} sees."
            return Reconstruction(inputs=empty, info={"interrupted": True, "reason": reason})
        info: dict[str, Any] = {
            "layer": pair.hidden,
            "activation": pair.activation.kind,
            "pixels": torch.Size(shape).numel(),
            "features": pair.in_features,
            "features_found": len(features),
            "features_certified": int(features.certified.sum()),
            "features_error_bound": features.bound,
            "rank": features.info.get("rank"),
        }
        if not len(features):
            why = features.info.get("reason", "no sample found")
            reason = f"No features could be read at {pair.hidden!r}: {why}."
            reason += spoken(response(problem, pair, shape))
            return Reconstruction(
                inputs=empty, batch_size=features.batch_size, info=info | {"reason": reason}
            )
        found = self._invert(problem, pair, shape, features, info)
        if "together" in features.info:
            found.info["features_residual"] = features.info["together"]
        elif not features.certified.any() and "reason" in found.info:
            doubt = " None of the features is certified." + spoken(response(problem, pair, shape))
            found.info["reason"] += doubt
        return found

    def _invert(
        self,
        problem: Problem,
        pair: LinearPair,
        shape: tuple[int, ...],
        features: Features,
        info: dict[str, Any],
    ) -> Reconstruction:
        rows = row_space(problem, pair, int(features.info["rank"]))
        match = feature_match(problem, pair, shape, features)
        kinks = count_kinks(match)
        determined = match.features.shape[1] - rows.basis.shape[1] >= info["pixels"]
        images = Images(
            match.features.new_zeros(len(features), info["pixels"]),
            match.features.new_full((len(features),), torch.inf),
        )
        settings = Descents(
            self.iterations,
            self.stage,
            self.widths,
            self.levels,
            self.tv,
            last_tv=0.0 if determined else self.tv * contrast(features.values),
            rounds=self.rounds,
        )
        equations = None
        if not (determined or kinks) and features.complete:
            equations = joint_equations(problem, pair, shape, features.values, rows)
        solved: list[Solved] = []
        joint = Joint(images.x.double())
        info |= {"kinks": kinks, "interrupted": False}
        try:
            search(match, settings, kinks > 0, images)
            if determined:
                images.x = unmixed(match, rows, images.x, self.iterations)
                for x in images.x:
                    solved.append(polish(match.front, rows, x.double(), shape))
            if equations is not None:
                joint.x = images.x.double()
                solve_jointly(replace(equations, coupled=False), joint, TRUSTING, 1e-3)
                joint.weakest = 0.0  # proves nothing as long as the features are trusted
                solve_jointly(equations, joint, self.joint_steps, 1e-7)
        except KeyboardInterrupt:
            info["interrupted"] = True
        info["starts"] = images.starts
        if equations is not None:
            solved = (
                [joint.of(i, equations.spare) for i in range(len(joint.x))] if joint.steps else []
            )
            info |= {"joint_steps": joint.steps, "front_parameters": equations.size_of_gradient}
        return assemble(problem, shape, features, rows, match, images, solved, info)


def contrast(features: Tensor) -> float:
    """Share of the features' square that is not their mean: what there is to see in them."""
    return float(features.var() / features.square().mean().clamp_min(1e-300))


def feature_match(
    problem: Problem, pair: LinearPair, shape: tuple[int, ...], features: Features
) -> FeatureMatch:
    """The features that were read as an objective, in float32.

    Parameters
    ----------
    problem : Problem
        Holds the model; a granted data range becomes the bounds.
    pair : LinearPair
        Behind the front.
    shape : tuple of int
        Of one image.
    features : Features
        As they were read, (n, F).

    Returns
    -------
    FeatureMatch
        Of all n images.
    """
    bounds = None
    if problem.knows.data_range is not None:
        like = features.values.float()
        low, high = (torch.as_tensor(b).to(like) for b in problem.knows.data_range)
        bounds = (low, high)
    return FeatureMatch(
        front=Front(problem.model, pair.hidden, torch.float32),
        shape=shape,
        features=features.values.float(),
        size=float(features.values.square().sum(1).mean().sqrt()),
        bounds=bounds,
    )


def unmixed(match: FeatureMatch, rows: Span, x: Tensor, iterations: int) -> Tensor:
    """Descend on the distance to the gradient's row space, which mixed features leave alone.

    Parameters
    ----------
    match : FeatureMatch
        Of the same images; its bounds are not used.
    rows : Span
        Row space of the layer's gradient.
    x : Tensor of shape (N, n)
        Where to begin.
    iterations : int
        Twice the number of evaluations.

    Returns
    -------
    Tensor of shape (N, n)
        The nearest points met.
    """
    loose = replace(match, span=rows.basis.to(x.dtype), bounds=None)
    return descend(lambda v: loose.evaluate(v, 0.0, 0.0), x, iterations // 2)
