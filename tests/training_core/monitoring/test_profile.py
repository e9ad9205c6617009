import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from monitored_world import SPEC, answer, held, table_of, without_target, world

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.views import HeldSamples
from training_core.errors import DataError, StorageError
from training_core.monitoring import ProfileConfig, ReferenceProfile, Window, compare, make_profile, pool
from training_core.monitoring.profile import bin_edges, pattern_name
from training_core.monitoring.tally import tally_category, tally_number
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

SMALL = ProfileConfig(num_frequencies=64, num_projections=8)


@pytest.fixture(scope="module")
def profile():
    return make_profile(held(world(1200)), "world", answer, SMALL)


def test_everything_there_is_gets_measured(profile):
    tally = profile.tally
    elements = {f"input/left[{i}]" for i in range(4)}
    arrays = {f"input/{name}.{what}" for name in ("photo", "clicks") for what in ("mean", "spread")}
    texts = {"input/review.characters", "input/review.words"}
    assert set(tally.numbers) == {
        *("input/facts.size", "input/facts.age", "prediction/confidence"),
        *elements,
        *arrays,
        *texts,
    }
    assert set(tally.categories) == {"input/facts.colour", "pattern/available", "prediction/class", "target/class"}
    assert set(tally.arrays) == {"left", "photo", "clicks", "review"}
    assert {"missing/photo", "missing/facts.size", "missing/facts.colour"} <= set(tally.shares)
    assert tally.performance is not None
    assert tally.performance.hits == round(tally.performance.score * 1200)


def test_counts_are_those_of_the_rows(profile):
    samples = world(1200)
    there = samples.available["facts"]
    size = samples.inputs["facts"][there, 0]
    number = profile.tally.numbers["input/facts.size"]
    edges = profile.scales.edges["input/facts.size"]
    assert number.counts.tolist() == np.histogram(size, [-np.inf, *edges, np.inf])[0].tolist()
    assert number.mean == pytest.approx(size.mean())
    assert number.std == pytest.approx(size.std())
    assert profile.tally.shares["missing/facts"].hits == int((~there).sum())
    assert profile.tally.categories["input/facts.colour"].counts[:3].tolist() == [
        int((samples.inputs["facts"][there, 2] == code).sum()) for code in range(3)
    ]
    most = profile.scales.patterns[0]
    assert most == SPEC.names  # nine in ten rows have each
    assert profile.scales.categories["pattern/available"][:2] == (
        "all",
        f"without {absent(profile.scales.patterns[1])}",
    )
    assert profile.tally.categories["pattern/available"].counts.sum() == 1200


def absent(pattern):
    return " + ".join(name for name in SPEC.names if name not in pattern)


def test_a_pattern_is_named_by_the_fewer_side():
    assert [pattern_name(p, ("a", "b", "c")) for p in (("a", "b", "c"), ("a", "b"), ("c",), ())] == [
        "all",
        "without c",
        "only c",
        "nothing",
    ]


def test_blocks_make_no_difference(profile, monkeypatch):
    monkeypatch.setattr("training_core.monitoring.observe._MOST_BLOCK_ROWS", 37)
    again = make_profile(held(world(1200)), "world", answer, SMALL)
    assert again.tally.numbers["input/photo.mean"].counts.tolist() == (
        profile.tally.numbers["input/photo.mean"].counts.tolist()
    )
    for name, array in profile.tally.arrays.items():
        assert again.tally.arrays[name].mean == pytest.approx(array.mean, abs=1e-6)


def test_the_same_rows_make_the_same_profile(profile):
    assert make_profile(held(world(1200)), "world", answer, SMALL).content_hash() == profile.content_hash()


def test_it_reads_back_as_it_was_written_and_holds_no_rows(profile, tmp_path):
    profile.save(tmp_path)
    loaded = ReferenceProfile.load(tmp_path)
    assert loaded.content_hash() == profile.content_hash()
    window = held(world(300, 5))
    assert compare(loaded, window, predict=answer) == compare(profile, window, predict=answer)
    with np.load(tmp_path / "profile.npz", allow_pickle=False) as arrays:
        assert all(array.dtype.kind in "iuf" for array in arrays.values())
        assert not any(len(array) == 1200 for array in arrays.values() if array.ndim)
    assert "dress" not in (tmp_path / "profile.json").read_text()


@pytest.mark.parametrize("damage", ["torn", "no arrays", "not ours", "pickle", "other release", "other scales", "nan"])
def test_a_damaged_profile_is_refused(profile, tmp_path, damage):
    profile.save(tmp_path)
    path, arrays = tmp_path / "profile.json", tmp_path / "profile.npz"
    described = json.loads(path.read_text())
    if damage == "torn":
        path.write_text(path.read_text()[:-40])
    elif damage == "no arrays":
        arrays.unlink()
    elif damage == "not ours":
        arrays.write_bytes(b"PK\x03\x04 nothing")
    elif damage == "pickle":
        np.savez(arrays, a0=np.array([{"run": "me"}], object))
    elif damage == "other release":
        path.write_text(json.dumps({**described, "format": 99}))
    elif damage == "other scales":
        described["scales"]["config"]["num_bins"] = 7
        path.write_text(json.dumps(described))
    else:
        with np.load(arrays) as kept:
            changed = {key: value * np.nan if value.dtype.kind == "f" else value for key, value in kept.items()}
        np.savez(arrays, **changed)
    with pytest.raises(StorageError, match="make it anew"):
        ReferenceProfile.load(tmp_path)


def test_a_modality_called_array_is_no_array(tmp_path):
    spec = DataSpec(modalities=(ModalitySpec(name="array", kind="vector", shape=(2,)),), task=TaskSpec.regression())
    values = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    rows = HeldSamples(Samples({"array": values}, {"array": np.ones(80, bool)}, np.arange(80).astype(str)), spec)
    made = make_profile(rows, "odd")
    made.save(tmp_path)
    assert ReferenceProfile.load(tmp_path).content_hash() == made.content_hash()


def test_no_rows_are_refused_and_one_is_enough_to_make_one():
    with pytest.raises(DataError, match="at least one row"):
        make_profile(held(world(0)), "none")
    one = make_profile(held(world(1, missing=dict.fromkeys(SPEC.names, 0.0))), "one", answer, SMALL)
    assert compare(one, held(world(200)), predict=answer).verdict == "insufficient_data"


def test_what_is_missing_everywhere_or_constant_does_no_harm(tmp_path):
    samples = world(200, missing={"photo": 1.1, "review": 1.1})
    samples.inputs["left"][:, 1] = 3.0
    made = make_profile(held(samples), "gaps", config=SMALL)
    made.save(tmp_path)
    report = compare(ReferenceProfile.load(tmp_path), held(world(200, 1, missing={"photo": 1.1, "review": 1.1})))
    assert report.check("array/photo").verdict == "insufficient_data"
    assert report.check("input/left[1]").wasserstein is None
    assert report.check("input/left[1]").verdict == "drift"  # it was constant and varies now


def test_numbers_that_are_not_finite_count_as_missing():
    values = np.array([[1.0], [np.inf], [np.nan], [-np.inf], [2.0]] * 20)
    tally = make_profile(table_of(values), "odd").tally
    assert tally.numbers["input/facts.x0"].missing == 60
    assert tally.shares["missing/facts.x0"].share == pytest.approx(0.6)


def test_bins_hold_equally_many_rows_and_heavy_values_have_their_own():
    values = np.random.default_rng(0).normal(size=5000)
    counts = tally_number(values, bin_edges(values, 10)).counts
    assert len(counts) == 10
    assert counts.min() >= 490
    values[:2000] = 0.25
    edges = bin_edges(values, 10)
    assert tally_number(values, edges).counts.max() == 2000
    assert bin_edges(np.full(9, 7.0), 10).tolist() == [7.0, np.nextafter(7.0, 8.0)]
    assert bin_edges(np.full(9, np.nan), 10).tolist() == []


def test_codes_that_are_not_known_count_as_another():
    tally = tally_category(np.array([0, 1, 1, 5, -1]), 3)
    assert tally.counts.tolist() == [1, 2, 0, 1]
    assert tally.missing == 1


def test_windows_pool_to_the_tally_of_their_rows(profile):
    whole = world(900, 3)
    parts = [profile.measure(held(whole.take(slice(i, i + 300))), answer) for i in (0, 300, 600)]
    together, expected = pool(parts), profile.measure(held(whole), answer)
    assert together.num_rows == 900
    for name, number in expected.numbers.items():
        assert together.numbers[name].counts.tolist() == number.counts.tolist()
        assert (together.numbers[name].mean, together.numbers[name].std) == pytest.approx((number.mean, number.std))
        assert np.abs(together.numbers[name].quantiles - number.quantiles).mean() <= 0.03 * number.std
    for name, array in expected.arrays.items():
        assert together.arrays[name].mean == pytest.approx(array.mean, abs=1e-9)
    assert together.shares == expected.shares
    assert together.performance is not None
    assert expected.performance is not None
    assert together.performance.loss_std == pytest.approx(expected.performance.loss_std)
    assert (together.performance.hits, together.performance.num_rows) == (expected.performance.hits, 900)
    assert together.performance.score == pytest.approx(expected.performance.score)


def test_windows_of_other_profiles_are_refused(profile):
    other = make_profile(held(world(300, 9)), "other", answer, SMALL)
    foreign = other.measure(held(world(100)), answer)
    with pytest.raises(DataError, match="another profile"):
        compare(profile, foreign)
    with pytest.raises(DataError, match="different profiles"):
        pool([foreign, profile.tally])
    with pytest.raises(DataError, match="no window"):
        pool([])


def test_other_rows_are_refused_by_name(profile):
    samples = world(100)
    without = HeldSamples(samples.select(["facts", "left"]), SPEC.select(["facts", "left"]))
    with pytest.raises(DataError, match="no modality 'photo'"):
        profile.measure(without)
    wide = SPEC.model_copy(
        update={
            "modalities": tuple(
                m if m.name != "left" else m.model_copy(update={"shape": (5,)}) for m in SPEC.modalities
            )
        }
    )
    bigger = replace(samples, inputs={**samples.inputs, "left": np.zeros((100, 5), np.float32)})
    with pytest.raises(DataError, match="'left' is vector"):
        profile.measure(HeldSamples(bigger, wide))


def test_a_window_is_kept_as_json(profile):
    window = Window(label="1 May", season="spring", tally=profile.measure(held(without_target(world(100)))))
    again = Window.model_validate_json(window.to_json())
    assert again.to_json() == window.to_json()
    assert compare(profile, again.tally) == compare(profile, window.tally)


class Recorded(HeldSamples):
    """Rows that remember how many of them were asked for at a time."""

    asked: ClassVar[list[int]] = []

    def blocks(self, num_rows):
        self.asked.append(num_rows)
        return super().blocks(num_rows)

    def subset(self, rows=None, modalities=None, features=None):
        part = super().subset(rows, modalities, features)
        return Recorded(part.samples(), part.spec)


def test_of_many_rows_a_sample_is_looked_at_a_block_at_a_time():
    spec = DataSpec(
        modalities=(ModalitySpec(name="photo", kind="image", shape=(3, 32, 32)),), task=TaskSpec.regression()
    )
    photos = np.broadcast_to(np.random.default_rng(0).normal(size=(3000, 1, 1, 1)), (3000, 3, 32, 32))
    rows = Samples({"photo": photos}, {"photo": np.ones(3000, bool)}, np.arange(3000).astype(str))
    Recorded.asked.clear()
    made = make_profile(Recorded(rows, spec), "photos", config=ProfileConfig(max_rows=300, num_frequencies=16))
    assert (made.tally.num_rows, made.tally.measured_rows) == (3000, 300)
    assert made.tally.arrays["photo"].num_rows == 300
    between = 3000 / 300  # rows of which one was drawn
    assert len(Recorded.asked) == 2
    assert max(Recorded.asked) * between * 3 * 32 * 32 * 4 <= 8_000_000


def test_a_published_data_set_is_measured_as_its_samples_are(tmp_path):
    values = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    dataset = create_dataset_from_arrays(
        "small", {"left": values}, np.arange(300) % 2, task="classification", store=tmp_path
    )
    stored = make_profile(dataset.subset(), "small", config=SMALL)
    in_memory = make_profile(HeldSamples(dataset.samples(), dataset.spec), "small", config=SMALL)
    assert stored.content_hash() == in_memory.content_hash()
