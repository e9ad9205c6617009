import numpy as np
import pytest
from scipy.spatial.distance import cdist

from training_core.data.text import MAX_TOKENS, token_ids
from training_core.monitoring.arrays import (
    ArrayScale,
    Moments,
    covariance_eigenvalues,
    draw_frequencies,
    fourier_features,
    kernel_shift,
    project,
)
from training_core.monitoring.tally import ArrayTally
from training_core.schema import ColumnSpec, ModalitySpec

VECTOR = ModalitySpec(name="v", kind="vector", shape=(64,))
NARROW = ModalitySpec(name="v", kind="vector", shape=(3,))
IMAGE = ModalitySpec(name="i", kind="image", shape=(2, 4, 5))
TEXT = ModalitySpec(name="t", kind="text", columns=(ColumnSpec(name="body"),))
NONE = np.empty(0)


def normal(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width))


def scaled(rows, num_frequencies=256):
    """A scale of projected rows, and its tally."""
    frequencies = draw_frequencies(rows, num_frequencies, np.random.default_rng(9))
    mean, eigenvalues, count = covariance_eigenvalues(iter([fourier_features(rows, frequencies)]))
    scale = ArrayScale(
        num_projections=rows.shape[1], mean=NONE, std=NONE, frequencies=frequencies, eigenvalues=eigenvalues
    )
    return scale, ArrayTally(mean=mean, num_rows=count)


def tally(scale, rows):
    return ArrayTally(mean=fourier_features(rows, scale.frequencies).mean(axis=0), num_rows=len(rows))


def test_features_multiply_to_the_gaussian_kernel():
    rows = normal(30, 4)
    width = 1.7
    frequencies = np.random.default_rng(1).normal(size=(4, 50_000)) / width
    features = fourier_features(rows, frequencies)
    kernel = np.exp(-cdist(rows, rows, "sqeuclidean") / (2 * width**2))
    assert np.abs(features @ features.T - kernel).max() < 0.03
    assert np.sum(features**2, axis=1) == pytest.approx(1)


def test_the_kernel_is_as_wide_as_the_median_distance():
    frequencies = draw_frequencies(np.array([[0.0], [2.0], [4.0]]), 100_000, np.random.default_rng(0))
    assert 1 / frequencies.std() == pytest.approx(2.0, rel=0.02)
    assert np.isfinite(draw_frequencies(np.zeros((5, 2)), 4, np.random.default_rng(0))).all()


def test_eigenvalues_are_those_of_the_covariance_however_it_is_cut():
    rows = normal(300, 6)
    mean, values, count = covariance_eigenvalues(iter([rows[:100], rows[100:]]))
    expected = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
    assert values == pytest.approx(expected)
    assert mean == pytest.approx(rows.mean(axis=0))
    assert count == 300
    assert covariance_eigenvalues(iter([]))[2] == 0


def test_the_squared_discrepancy_is_that_of_the_kernel():
    first, second = normal(400, 3), normal(300, 3, 1) + 1
    frequencies = draw_frequencies(first, 6_000, np.random.default_rng(9))
    scale = ArrayScale(num_projections=3, mean=NONE, std=NONE, frequencies=frequencies, eigenvalues=np.ones(1))
    width = float(np.median(cdist(first, first)[np.triu_indices(400, 1)]))

    def mean_kernel(a, b):
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * width**2)).mean()

    squared = mean_kernel(first, first) + mean_kernel(second, second) - 2 * mean_kernel(first, second)
    variance = 1 - mean_kernel(first, first)
    expected = np.sqrt((squared - variance * (1 / 400 + 1 / 300)) / variance)
    shift, _ = kernel_shift(scale, tally(scale, first), tally(scale, second))
    assert shift == pytest.approx(expected, rel=0.08)


def test_the_p_value_is_uniform_without_drift_whatever_the_sizes():
    scale, reference = scaled(normal(2000, 8), 64)
    for rows in (50, 300):
        p_values = [kernel_shift(scale, reference, tally(scale, normal(rows, 8, 10 + k)))[1] for k in range(200)]
        assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.04)
        assert np.mean(p_values) == pytest.approx(0.5, abs=0.08)


def test_a_shift_is_about_as_long_as_it_is_and_found():
    scale, reference = scaled(normal(5000, 16))
    for distance in (0.2, 0.4):
        shift, p_value = kernel_shift(scale, reference, tally(scale, normal(1000, 16, 1) + distance))
        assert shift == pytest.approx(0.9 * distance, rel=0.25)
        assert p_value < 1e-6


def test_what_never_varied_has_not_moved_or_has_moved_infinitely():
    scale, reference = scaled(np.zeros((100, 2)))
    assert kernel_shift(scale, reference, tally(scale, np.zeros((60, 2)))) == (0.0, 1.0)
    shift, p_value = kernel_shift(scale, reference, tally(scale, np.ones((60, 2))))
    assert (shift, p_value) == (float("inf"), 0.0)


def test_moments_are_numpys_by_channel_however_blocks_are_cut():
    values = np.random.default_rng(0).normal(3, 2, size=(90, 2, 4, 5))
    values[3, 0, 1, 1] = np.nan
    moments = Moments()
    for block in np.array_split(values, 4):
        moments.update(IMAGE, block)
    mean, std = moments.found()
    assert mean == pytest.approx(np.nanmean(values, axis=(0, 2, 3)))
    assert std == pytest.approx(np.nanstd(values, axis=(0, 2, 3)))
    constant = Moments()
    constant.update(NARROW, np.full((5, 3), 7.0))
    assert constant.found()[1].tolist() == [1.0, 1.0, 1.0]


def test_narrow_vectors_keep_their_elements_and_gaps_count_as_the_mean():
    values = np.array([[1.0, 4.0, np.nan], [3.0, np.inf, 0.0]])
    found = project(NARROW, values, np.array([1.0, 2.0, 0.0]), np.array([1.0, 2.0, 1.0]), 5)
    assert found.tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0, 0.0]]


def test_hashing_keeps_lengths_on_average_and_is_the_same_everywhere():
    rows = normal(2000, 64)
    found = project(VECTOR, rows, np.zeros(64), np.ones(64), 32)
    assert np.mean(found**2) == pytest.approx(1, abs=0.05)
    unit = project(VECTOR, np.eye(64), np.zeros(64), np.ones(64), 32) * np.sqrt(2)
    for place, row in enumerate(unit):
        mixed = split_mix(place)
        assert np.flatnonzero(row).tolist() == [(mixed >> 1) % 32]
        assert row.sum() == pytest.approx(1.0 if mixed & 1 else -1.0)


def split_mix(step):
    """The output of SplitMix64 from seed 0 after `step` steps, in Python's integers."""
    mixed = (step + 1) * 0x9E3779B97F4A7C15 % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


def test_images_are_standardised_by_channel():
    values = np.random.default_rng(0).normal(size=(4, 2, 4, 5))
    values[:, 1] = values[:, 1] * 50 + 7
    mean, std = np.array([0.0, 7.0]), np.array([1.0, 50.0])
    found = project(IMAGE, values, mean, std, 64)
    plain = np.concatenate([values[:, 0].reshape(4, -1), ((values[:, 1] - 7) / 50).reshape(4, -1)], axis=1)
    assert found[:, :40] == pytest.approx(plain)


def test_texts_are_their_hashed_tokens():
    texts = np.array(["one two", "", "two one"], object)
    found = project(TEXT, texts, NONE, NONE, 16)
    assert found[1].tolist() == [0.0] * 16
    assert found[0] != pytest.approx(found[2])  # pairs of words are tokens too
    num_tokens = int((token_ids(texts[:1], MAX_TOKENS) > 0).sum())
    assert np.abs(found[0]).sum() * np.sqrt(num_tokens) <= num_tokens + 1e-9
