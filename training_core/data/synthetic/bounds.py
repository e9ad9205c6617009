"""Where the answer is hidden, and the best that anyone can say of it from some of the modalities.

With e_k unit vectors, s the strength of a modality and ε standard normal noise, what a modality tells is z [N, K]:

- classification, K classes: informative z = s · e_y + ε. Complementary: digits u_1 … u_c, uniform in 0 … K - 1 and
  independent but for their sum being y modulo K; z_i = s_i · e_{u_i} + ε. Any c - 1 of them say nothing of y.
- multilabel, K labels: informative z = s / √2 · (2y - 1) + ε. Complementary: bits whose sum modulo 2 is y, likewise.
- regression, K targets: informative z standard normal, of which s · z is added to the target. Complementary: z_i
  standard normal, of which the product, times the mean of the strengths, is added: uncorrelated with each z_i.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from training_core.data.synthetic.config import SyntheticConfig
from training_core.seeding import derive_seed, generator

_SURE = 1 - 1e-12
_SIMULATED = 200_000  # rows: a probability comes out within about 0.001


def draw_answers(config: SyntheticConfig, num_rows: int, draws: np.random.Generator) -> np.ndarray:
    """Clean classes int64 [N], or labels bool [N, K]; for regression, whose answer follows from z, zeros [N, K]."""
    if config.task == "classification":
        return draws.integers(0, config.num_outputs, num_rows)
    if config.task == "multilabel":
        return draws.random((num_rows, config.num_outputs)) < config.positive_rate
    return np.zeros((num_rows, config.num_outputs))


def draw_latents(config: SyntheticConfig, answers: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """What each modality of `config.sources` tells, z [N, K]; of each its own random numbers."""
    shape = (len(answers), config.num_outputs)
    told = {modality.name: answers for modality in config.informative}
    modulus = config.num_outputs if config.task == "classification" else 2
    rest = answers.astype(np.int64)
    for modality in config.complementary[:-1]:
        told[modality.name] = generator(seed, "digit", modality.name).integers(0, modulus, answers.shape)
        rest = (rest - told[modality.name]) % modulus
    if config.complementary:
        told[config.complementary[-1].name] = rest
    latents = {}
    for name, modality in config.sources.items():
        noise = generator(seed, "told", name).standard_normal(shape)
        if config.task == "classification":
            noise += modality.strength * np.eye(config.num_outputs)[told[name]]
        elif config.task == "multilabel":
            noise += modality.strength / np.sqrt(2) * (2.0 * told[name] - 1)
        latents[name] = noise
    return latents


def best_predictions(config: SyntheticConfig, latents: Mapping[str, np.ndarray], pattern: Iterable[str]) -> np.ndarray:
    """The exact posterior given the modalities of `pattern`, float64 [N, K].

    Probabilities of classes or labels, or expected values, of clean answers without drift and group offsets. A table's
    categories and a text round z; whoever sees only those knows a little less.
    """
    informative, complete = config.told_by(pattern)
    num_rows = len(next(iter(latents.values())))
    parts = [latents[modality.name] for modality in config.complementary]
    strengths = [modality.strength for modality in config.complementary]
    total = np.zeros((num_rows, config.num_outputs))
    if config.task == "regression":
        for modality in informative:
            total += modality.strength * latents[modality.name]
        return total + config.joint_strength * np.prod(parts, axis=0) if complete else total
    if config.task == "multilabel":
        total += np.log(config.positive_rate / (1 - config.positive_rate))
        for modality in informative:
            total += np.sqrt(2) * modality.strength * latents[modality.name]
        if complete:  # of ±1 = 1 - 2 bit the expectations multiply
            even = np.prod([-np.tanh(s * z / np.sqrt(2)) for s, z in zip(strengths, parts, strict=True)], axis=0)
            even = np.clip(even, -_SURE, _SURE)
            total += np.log1p(-even) - np.log1p(even)
        return 1 / (1 + np.exp(-total))
    for modality in informative:
        total += modality.strength * latents[modality.name]
    found = _softmax(total)
    if complete:
        digits = _softmax(strengths[0] * parts[0])
        for s, z in zip(strengths[1:], parts[1:], strict=True):
            digits = _sum_modulo(digits, _softmax(s * z))
        found = found * digits
        found /= found.sum(axis=1, keepdims=True)
    return found


def best_score(config: SyntheticConfig, pattern: Iterable[str], *, clean: bool = False) -> float:
    """The score of `best_predictions`: accuracy (multilabel: mean over labels), or R² for regression.

    For rows without drift and group offsets whose absences tell nothing. With S² the sum of the squared strengths of
    the informative modalities that are told, φ and Φ the standard normal density and distribution, π the rate of a
    label and ρ the label noise:

    - classification: p = ∫ φ(t) Φ(t + S)^(K-1) dt, for two classes Φ(S / √2);
    - multilabel: p = π Φ(S / √2 + λ / (√2 S)) + (1 - π) Φ(S / √2 - λ / (√2 S)), λ = log(π / (1 - π));
    - either with all complementary modalities there: the mean of the highest posterior probability in 200,000
      simulated rows (± 0.001); for two classes and nothing informative (1 + Π(2 Φ(s_i / √2) - 1)) / 2;
    - answers as given are right by p (1 - ρ) + (1 - p) ρ / (K - 1), K = 2 for labels;
    - regression: told variance / variance of the target = (1 - ρ) · told / (Σ s² + joint strength²).

    Args:
        config: of the world.
        pattern: names of the modalities that are there.
        clean: compare with clean answers instead of given ones.

    Raises:
        DataError: there is no such modality.
    """
    informative, complete = config.told_by(pattern)
    squares = sum(modality.strength**2 for modality in informative)
    noise = 0.0 if clean else config.label_noise
    if config.task == "regression":
        joint = config.joint_strength**2
        whole = sum(modality.strength**2 for modality in config.informative) + joint
        return (1 - noise) * (squares + joint * complete) / whole if whole else 0.0
    num_states = config.num_outputs if config.task == "classification" else 2
    if complete:
        right = _accuracy_of_complementary(config, bool(informative), tuple(pattern))
    elif config.task == "classification":
        right = _accuracy_of_classes(np.sqrt(squares), num_states)
    else:
        right = _accuracy_of_labels(np.sqrt(squares), config.positive_rate)
    return right * (1 - noise) + (1 - right) * noise / (num_states - 1)


def _accuracy_of_complementary(config: SyntheticConfig, informed: bool, pattern: tuple[str, ...]) -> float:
    from scipy.special import ndtr

    if config.task == "classification" and config.num_outputs == 2 and not informed:
        leads = [2 * ndtr(modality.strength / np.sqrt(2)) - 1 for modality in config.complementary]
        return float((1 + np.prod(leads)) / 2)
    seed = derive_seed(config.seed, "synthetic", "best score")
    answers = draw_answers(config, _SIMULATED, generator(seed, "answers"))
    found = best_predictions(config, draw_latents(config, answers, seed), pattern)
    if config.task == "multilabel":
        return float(np.maximum(found, 1 - found).mean())
    return float(found.max(axis=1).mean())


def _accuracy_of_classes(strength: float, num_classes: int) -> float:
    from scipy.special import ndtr

    points, weights = np.polynomial.hermite_e.hermegauss(100)
    return float((weights * ndtr(points + strength) ** (num_classes - 1)).sum() / weights.sum())


def _accuracy_of_labels(strength: float, rate: float) -> float:
    from scipy.special import ndtr

    if strength == 0:
        return max(rate, 1 - rate)
    half, prior = strength / np.sqrt(2), np.log(rate / (1 - rate)) / (np.sqrt(2) * strength)
    return float(rate * ndtr(half + prior) + (1 - rate) * ndtr(half - prior))


def _softmax(values: np.ndarray) -> np.ndarray:
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def _sum_modulo(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distribution [N, K] of the sum modulo K of two independent digits with those of `one` and `other`."""
    return sum((one[:, [k]] * np.roll(other, k, axis=1) for k in range(one.shape[1])), np.zeros_like(one))
