import numpy as np
import pytest
from quality_world import World, a_clean_world, without_nan

from training_core.data.quality import Profile
from training_core.data.quality.hashing import combine, hash_numbers, hash_rows, hash_texts
from training_core.data.quality.streaming import EXACT_DISTINCT, DistinctCount, Moments, RowSample
from training_core.schema import TaskSpec


def moments_of(values: np.ndarray, rows_at_a_time: int) -> Moments:
    moments = Moments(values.shape[1])
    for start in range(0, len(values), rows_at_a_time):
        moments.update(values[start : start + rows_at_a_time])
    return moments


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 100, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.float16])
def test_moments_are_those_of_numpy_however_rows_are_cut(rows_at_a_time, dtype):
    values = (50 + 10 * np.random.default_rng(0).normal(size=(1000, 5))).astype(dtype)
    moments = moments_of(values, rows_at_a_time)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, exact.std(axis=0), rtol=1e-11)
    np.testing.assert_array_equal(moments.least, exact.min(axis=0))
    np.testing.assert_array_equal(moments.greatest, exact.max(axis=0))


def test_the_overall_moments_are_those_of_all_numbers_together():
    values = np.random.default_rng(0).normal(np.arange(5), np.arange(1, 6), size=(500, 5))
    count, mean, std, least, greatest = moments_of(values, 33).overall()
    assert count == values.size
    np.testing.assert_allclose([mean, std], [values.mean(), values.std()], rtol=1e-12)
    assert (least, greatest) == (values.min(), values.max())


def test_a_small_spread_around_a_large_mean_is_not_lost():
    values = 1e9 + np.random.default_rng(0).normal(size=(5000, 2))
    np.testing.assert_allclose(moments_of(values, 13).std, values.std(axis=0), rtol=1e-6)


def test_numbers_that_are_none_are_counted_and_left_out():
    values = np.random.default_rng(0).normal(size=(200, 3))
    values[::7, 1] = np.nan
    values[5, 2] = np.inf
    values[:, 0] = np.nan
    moments = moments_of(values, 9)
    assert moments.num_non_finite == 200 + 29 + 1
    finite = np.where(np.isfinite(values), values, np.nan)
    np.testing.assert_allclose(moments.mean[1:], np.nanmean(finite[:, 1:], axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std[1:], np.nanstd(finite[:, 1:], axis=0), rtol=1e-12)
    assert np.isnan(moments.std[0])


def test_few_distinct_values_are_counted_exactly_and_many_estimated():
    for true in (1, 50, EXACT_DISTINCT - 1, 100_000):
        counter = DistinctCount()
        values = np.random.default_rng(0).permutation(np.repeat(np.arange(true), 2)).astype(np.float64)
        for start in range(0, len(values), 999):
            counter.update(hash_numbers(values[start : start + 999]))
        assert counter.value == true if true < EXACT_DISTINCT else counter.value == pytest.approx(true, rel=0.06)


def test_a_row_sample_depends_on_row_numbers_alone():
    values = np.arange(5000.0)
    samples = []
    for step in (1, 64, 999, 5000):
        sample = RowSample(300, {"x": ((), np.dtype(np.float64))})
        for start in range(0, len(values), step):
            chosen, slots = sample.choose(len(values[start : start + step]))
            sample.put("x", slots, values[start : start + step][chosen])
        np.testing.assert_array_equal(sample.column("x"), sample.rows)
        samples.append(sample.rows)
    for rows in samples:
        np.testing.assert_array_equal(rows, samples[0])
    assert len(set(samples[0])) == 300
    assert samples[0].mean() == pytest.approx(2500, abs=250)


def test_a_sample_of_fewer_rows_than_its_size_has_them_all():
    sample = RowSample(300, {"x": ((), np.dtype(np.float64))})
    for _ in range(4):
        chosen, slots = sample.choose(10)
        sample.put("x", slots, chosen.astype(float))
    np.testing.assert_array_equal(sample.rows, np.arange(40))


@pytest.mark.parametrize("shape", [(1,), (3,), (7,), (64,), (3, 5, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_equal_rows_have_equal_hashes_and_others_do_not(shape, dtype):
    values = np.random.default_rng(0).integers(0, 3, (4000, *shape)).astype(dtype)
    hashes = hash_rows(values)
    flat = values.reshape(len(values), -1)
    assert len(np.unique(hashes)) == len(np.unique(flat, axis=0))
    np.testing.assert_array_equal(hashes[:10], hash_rows(values[:10]))


def test_the_order_of_numbers_in_a_row_and_of_modalities_counts():
    assert hash_rows(np.array([[1.0, 2.0]])) != hash_rows(np.array([[2.0, 1.0]]))
    one, two = hash_texts(["a"]), hash_texts(["b"])
    assert combine([one, two]) != combine([two, one])


def test_numbers_hash_by_value():
    assert hash_numbers(np.array([1])) == hash_numbers(np.array([True])) == hash_numbers(np.array([1.0]))
    assert hash_numbers(np.array([-0.0])) == hash_numbers(np.array([0.0]))


def test_a_profile_is_the_same_however_rows_are_cut():
    world = a_clean_world()
    whole = world.profile(10_000)
    for size in (1, 50, 333):
        cut = world.profile(size)
        assert_alike(cut.summary().model_dump(), whole.summary().model_dump())
        np.testing.assert_array_equal(cut.row_hashes(), whole.row_hashes())
        np.testing.assert_array_equal(cut.sample().vectors["sensor"], whole.sample().vectors["sensor"])


def test_a_profile_of_nothing_is_empty():
    summary = Profile(a_clean_world(num_rows=1).spec).summary()
    assert (summary.num_rows, summary.sampled_rows) == (0, 0)


def test_an_array_that_is_absent_counts_for_nothing():
    values = np.random.default_rng(0).normal(size=(100, 20)).astype(np.float32)
    absent = np.arange(100) % 5 == 0
    values[absent] = np.nan
    world = World(TaskSpec.regression(), np.arange(100.0)[:, None], arrays={"v": values}, absent={"v": absent})
    (modality,) = world.profile(7).summary().modalities
    assert modality.array is not None
    assert (modality.available, modality.array.non_finite, modality.repeated) == (80, 0, 0)
    np.testing.assert_allclose(modality.array.mean, values[~absent].astype(np.float64).mean(), rtol=1e-12)
    np.testing.assert_allclose(modality.array.feature_std, values[~absent].astype("f8").std(axis=0), rtol=1e-7)


def test_wide_vectors_make_the_sample_shorter_then_narrower():
    from training_core.data.quality import profile

    assert profile._sample_size(3, {"v": 100}) == (20_000, {"v": 100})
    rows, features = profile._sample_size(0, {"v": 4000})
    assert rows * 4 * 4000 <= profile.SAMPLE_BYTES
    assert 2000 < rows < 20_000
    assert features == {"v": 4000}
    rows, features = profile._sample_size(0, {"small": 10, "wide": 50_000, "wider": 90_000})
    assert rows == profile.MIN_SAMPLED_ROWS
    assert features["small"] == 10
    assert 0 <= features["wider"] - features["wide"] <= 1
    assert rows * 4 * sum(features.values()) <= profile.SAMPLE_BYTES


def test_more_features_than_are_counted_one_by_one_still_have_common_moments(monkeypatch):
    from training_core.data.quality import arrays

    monkeypatch.setattr(arrays, "MAX_FEATURES", 10)
    values = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    world = World(TaskSpec.regression(), np.arange(50.0)[:, None], arrays={"v": values})
    array = world.profile(7).summary().modalities[0].array
    assert array is not None
    assert (array.dead_features, array.feature_mean) == (None, ())
    np.testing.assert_allclose([array.mean, array.std], [values.mean(), values.std()], rtol=1e-5)


def test_table_cells_hash_by_value_and_absence_counts():
    cells = without_nan(np.array([1.0, 1.0, np.nan, 2.0]))
    world = World(TaskSpec.regression(), np.arange(4.0)[:, None], tables={"t": {"a": cells, "b": [5, 5, 5, 5]}})
    hashes = world.profile(3).hashes("t")
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 3


def assert_alike(one: object, other: object) -> None:
    """Equal but for the last digits of floats."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-12)
    else:
        assert one == other
