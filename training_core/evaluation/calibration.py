"""Whether confidence can be believed: calibration error, and the temperature that mends it.

Probabilities come as [N, C] for classification (rows sum to 1) and [N, L] for multilabel; regression values pass
through unchanged, since they carry no probability.
"""

from dataclasses import dataclass

import numpy as np

from training_core.schema import TaskSpec

LEAST_PROBABILITY = 1e-6
"""What `apply_temperature` gives a class at least (before the temperature): an average over a few learners that never
saw a class among their neighbours must not rule it out, for one such row costs more than a thousand good ones earn."""
_PRECISION = 1e-9
"""Of an inverse temperature: far below anything a prediction shows."""


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in bins, for a reliability diagram: three arrays, one entry per non-empty bin."""

    confidence: np.ndarray
    accuracy: np.ndarray
    num_rows: np.ndarray


def reliability(confidence: np.ndarray, correct: np.ndarray, num_bins: int = 15) -> Reliability:
    """Mean confidence and accuracy in bins of (nearly) equal numbers of rows.

    `confidence` [N] in [0, 1], `correct` [N] of 0/1 or bool. Equal confidences share a bin, so the order of the rows
    does not matter; bins may then differ in size, and there may be fewer of them.
    """
    edges = np.quantile(confidence, np.linspace(0, 1, num_bins + 1)[1:-1])
    place = np.searchsorted(edges, confidence, side="right")
    count = np.bincount(place, minlength=num_bins)
    filled = count > 0
    total = count[filled]
    return Reliability(
        confidence=np.bincount(place, confidence, num_bins)[filled] / total,
        accuracy=np.bincount(place, np.asarray(correct, dtype=np.float64), num_bins)[filled] / total,
        num_rows=total,
    )


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins, weighted by rows; 0 is perfect.

    Guo et al. 2017, arXiv:1706.04599, eq. 3, with bins of equal mass (Nixon et al. 2019, arXiv:1904.01685, §3): bins
    of equal width leave most of them empty once a classifier is good. See `reliability` for the arguments.
    """
    bins = reliability(confidence, correct, num_bins)
    gap = np.abs(bins.accuracy - bins.confidence)
    return float(np.sum(bins.num_rows / np.sum(bins.num_rows) * gap))


def expected_error_if_calibrated(confidence: np.ndarray, num_bins: int = 15) -> float:
    """The `expected_calibration_error` to be expected of these confidences [N] if every one of them were true.

    It is not 0: of n rows sure to .8 never exactly .8 n are right, and the gaps of the bins, taken without their sign,
    do not cancel (Roelofs et al. 2022, arXiv:2012.08668, §4). With 15 bins of 40 rows each at .8 it is .05. Only what
    exceeds this is miscalibration. The mean gap of a bin of n rows at mean confidence p is that of a binomial,
    E|X/n - p| = 2 v C(n, v) p^v (1 - p)^(n - v + 1) / n with v = floor(n p) + 1 (De Moivre 1730; Diaconis and Zabell
    1991, Statistical Science 6(3), §1).
    """
    from scipy.special import gammaln

    bins = reliability(confidence, np.zeros(len(confidence)), num_bins)
    n, p = bins.num_rows.astype(np.float64), np.clip(bins.confidence, 1e-12, 1.0 - 1e-12)
    v = np.minimum(np.floor(n * p) + 1.0, n)
    ways = gammaln(n + 1) - gammaln(v + 1) - gammaln(n - v + 1)
    gap = 2.0 * v * np.exp(ways + v * np.log(p) + (n - v + 1.0) * np.log1p(-p)) / n
    return float(np.sum(n / n.sum() * gap))


def confidence(task: TaskSpec, prediction: np.ndarray, explained: float | np.ndarray = 0.0) -> np.ndarray:
    """How sure each prediction is, [N] in [0, 1].

    Classification: the greatest probability. Multilabel: max(p, 1 - p), mean over labels. Regression: `explained`,
    the share of the target's variance that predictions of this kind explained on rows they had not seen.
    """
    if task.kind == "classification":
        return prediction.max(axis=1)
    if task.kind == "multilabel":
        return np.maximum(prediction, 1.0 - prediction).mean(axis=1)
    return np.broadcast_to(np.clip(explained, 0.0, 1.0), (len(prediction),)).astype(np.float64)


def correctness(task: TaskSpec, target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Whether the likeliest class is the true one, bool [N]; multilabel: whether each label is right, bool [N, L]."""
    if task.kind == "classification":
        return np.argmax(prediction, axis=1) == target
    return (prediction > 0.5) == (target > 0.5)


def fit_temperature(
    task: TaskSpec,
    target: np.ndarray,
    probabilities: np.ndarray,
    lowest: float = 0.25,
    highest: float = 4.0,
) -> float:
    """The temperature in [`lowest`, `highest`] that minimises the negative log-likelihood; 1 for regression.

    Guo et al. 2017, arXiv:1706.04599, §4.2, on log-probabilities in place of logits. In the inverse temperature the
    loss is convex, so its derivative has one root, which is bracketed and found by Brent's method.
    """
    from scipy.optimize import root_scalar

    if task.kind == "regression" or not len(target):
        return 1.0
    logits, hit = choices(task, probabilities, target)

    def slope(inverse: float) -> float:
        """Derivative of the mean negative log-likelihood in the inverse temperature: E_p[z] - z_true."""
        return float(np.mean(np.sum(_softmax(inverse * logits) * logits, axis=1) - hit))

    low, high = 1.0 / highest, 1.0 / lowest
    if slope(low) >= 0:
        return highest
    if slope(high) <= 0:
        return lowest
    return 1.0 / float(root_scalar(slope, bracket=(low, high), method="brentq", xtol=_PRECISION).root)


def apply_temperature(task: TaskSpec, probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Probabilities ∝ p^(1 / temperature): above 1 less sure, below 1 surer; the order of the classes stays.

    `temperature` is one for all rows, or one per row, [N]. Probabilities are first raised to `LEAST_PROBABILITY`.
    Regression values are returned as they are.
    """
    if task.kind == "regression":
        return probabilities
    logits, _ = choices(task, probabilities, None)
    if isinstance(temperature, np.ndarray):
        temperature = np.repeat(temperature, len(logits) // max(1, len(probabilities)))[:, None]
    scaled = _softmax(logits / temperature)
    return scaled if task.kind == "classification" else scaled[:, 1].reshape(probabilities.shape)


def choices(task: TaskSpec, probabilities: np.ndarray, target: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of each choice between alternatives, and that of the true one.

    [N, C] and [N]; for multilabel every label is a choice between no and yes: [N * L, 2] and [N * L].
    """
    if task.kind == "multilabel":
        yes = probabilities.ravel()
        probabilities = np.stack([1.0 - yes, yes], axis=1)
        target = None if target is None else (target > 0.5).astype(np.int64).ravel()
    logits = np.log(np.clip(probabilities, LEAST_PROBABILITY, 1.0))
    return logits, logits[:, 0] if target is None else logits[np.arange(len(target)), target]


def _softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)
