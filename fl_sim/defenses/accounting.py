"""What noise buys: the epsilon of repeated Gaussian mechanisms, by Rényi differential privacy.

A Gaussian mechanism with noise multiplier sigma (standard deviation over sensitivity) that looks at
a random share q of the samples has, at each integer order a > 1, the Rényi divergence

    1 / (a - 1) * log sum_k binom(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) / (2 sigma^2))

(Mironov, Talwar, Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019,
section 3.3). Steps add up. The best order gives epsilon at a given delta (Balle et al., "Hypothesis
Testing Interpretations and Rényi Differential Privacy", 2020, theorem 21).

What the sensitivity bounds is the mechanism's to say: in DP-SGD one sample, present or absent (C);
in local DP all that a client holds, replaced (2 C, `fl_sim.defenses.LocalDp`). A rate below 1 is
for the first kind; batches are taken as Poisson-sampled, as is usual, although the simulator's have
a fixed size.
"""

from __future__ import annotations

import math

ORDERS = (*range(2, 64), 80, 96, 128, 192, 256, 512, 1024)


def epsilon_of(noise_multiplier: float, steps: int, rate: float, delta: float) -> float:
    """Return the epsilon of `steps` sampled Gaussian mechanisms.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise over the sensitivity, not negative; 0 gives infinity.
    steps : int
        How many times the data are looked at.
    rate : float
        Share of the samples in each look, in (0, 1]; 1 for no amplification by sampling.
    delta : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If the rate or delta is out of its range.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate!r} must be above 0 and at most 1.")
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta!r} must be between 0 and 1.")
    if steps == 0:
        return 0.0
    if not noise_multiplier > 0:
        return math.inf
    return max(
        0.0,
        min(_converted(steps * renyi(noise_multiplier, rate, a), a, delta) for a in ORDERS),
    )


def renyi(noise_multiplier: float, rate: float, order: int) -> float:
    """Return the Rényi divergence of one sampled Gaussian mechanism.

    Parameters
    ----------
    noise_multiplier : float
        Positive.
    rate : float
        In (0, 1].
    order : int
        At least 2.
    """
    if rate == 1:
        return order / (2 * noise_multiplier**2)
    terms = [
        _log_binomial(order, k)
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + k * (k - 1) / (2 * noise_multiplier**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    return (largest + math.log(sum(math.exp(t - largest) for t in terms))) / (order - 1)


def _converted(divergence: float, order: int, delta: float) -> float:
    """Epsilon at delta of a mechanism with this Rényi divergence."""
    return divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
