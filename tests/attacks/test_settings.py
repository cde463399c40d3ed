"""Hyperparameters that make no sense are refused where the attack is made, by name and value."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import attacks
from attacks.settings import count, flag, listed, number, positive, weight

NO_COUNT = (0, -1, 1.5, True, "ten", None, math.nan, math.inf)
NO_STEP = (0, 0.0, -0.1, math.nan, math.inf, "fast", None, True)
NO_WEIGHT = (-0.1, math.nan, math.inf, "much", None, True)
NO_FLAG = (0, 1, "false", None)

COUNTS = {
    attacks.DeepLeakage: "iterations restarts local_steps",
    attacks.InvertingGradients: "iterations restarts local_steps",
    attacks.SeeThroughGradients: "iterations seeds stages local_steps",
    attacks.FeatureMatching: "iterations restarts local_steps",
    attacks.CocktailPartyAttack: "iterations",
    attacks.SpearAttack: "draws chunk",
    attacks.PeelingAttack: "rounds",
    attacks.FeatureInversion: "iterations stage rounds candidates patience",
}
STEPS = {
    attacks.DeepLeakage: "local_lr",
    attacks.InvertingGradients: "lr local_lr",
    attacks.SeeThroughGradients: "lr local_lr",
    attacks.FeatureMatching: "lr prior_lr local_lr",
    attacks.CocktailPartyAttack: "lr",
}
WEIGHTS = {
    attacks.DeepLeakage: "tolerance",
    attacks.InvertingGradients: "tv",
    attacks.SeeThroughGradients: "tv small statistics group",
    attacks.FeatureMatching: "features tv",
    attacks.CocktailPartyAttack: "tv alike",
    attacks.ImprintAttack: "faintest tolerance",
    attacks.FeatureInversion: "tv",
}
FLAGS = {
    attacks.InvertingGradients: "logarithmic signed",
    attacks.FeatureMatching: "logarithmic image_prior",
    attacks.UpdateTensorAttack: "unroll",
}


def rows():
    for table, values, sentence in (
        (COUNTS, NO_COUNT, "is no whole number of at least 1."),
        (STEPS, NO_STEP, "is no finite number above 0."),
        (WEIGHTS, NO_WEIGHT, "is no finite number of at least 0."),
        (FLAGS, NO_FLAG, "is neither True nor False."),
    ):
        for attack, names in table.items():
            for name in names.split():
                for value in values:
                    yield attack, name, value, sentence
    yield attacks.FeatureInversion, "joint_steps", -1, "is no whole number of at least 0."
    yield attacks.FeatureInversion, "widths", (), "is no sequence of at least one number."
    yield attacks.FeatureInversion, "levels", 0.5, "is no sequence of at least one number."
    yield attacks.FeatureInversion, "levels", "0.5", "is no sequence of at least one number."
    yield attacks.DeepLeakage, "labels", "guess", "is neither 'optimise' nor 'infer'."


@pytest.mark.parametrize(
    ("attack", "name", "value", "sentence"),
    list(rows()),
    ids=lambda x: x.__name__ if isinstance(x, type) else str(x)[:12],
)
def test_nonsense_is_refused_by_name_and_value(attack, name, value, sentence):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} {sentence}")):
        attack(**{name: value})


def test_an_entry_of_a_sequence_is_refused():
    with pytest.raises(ValueError, match="widths=-1 is no finite number above 0"):
        attacks.FeatureInversion(widths=(0.5, -1))
    with pytest.raises(ValueError, match="levels=nan is no finite number"):
        attacks.FeatureInversion(levels=(math.nan,))


def test_numbers_of_any_kind_are_taken():
    assert count("n", 3.0) == count("n", np.int64(3)) == 3
    assert isinstance(count("n", np.int64(3)), int)
    assert count("n", 0, least=0) == 0
    assert positive("lr", np.float32(0.5)) == positive("lr", 0.5) == 0.5
    assert weight("tv", 0) == 0.0
    assert number("level", -2) == -2.0
    assert flag("signed", False) is False
    assert listed("widths", iter([1, 2])) == (1, 2)


def test_counts_and_weights_are_stored_under_their_names():
    attack = attacks.InvertingGradients(iterations=7, tv=0, signed=False)
    assert (attack.iterations, attack.tv, attack.signed) == (7, 0.0, False)
