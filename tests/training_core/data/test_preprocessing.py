import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from training_core.data.preprocessing import Preprocessor
from training_core.data.views import HeldSamples
from training_core.errors import ConfigError, DataError
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="photo", kind="image", shape=(2, 3, 3)),
        ModalitySpec(name="vec", kind="vector", shape=(4,)),
        ModalitySpec(name="clicks", kind="sequence", shape=(5, 2)),
        ModalitySpec(
            name="meta",
            kind="tabular",
            shape=(4,),
            columns=(
                ColumnSpec(name="age"),
                ColumnSpec(name="city", categories=("Bonn", "Kiel", "Köln", "Ulm")),
                ColumnSpec(name="size"),
                ColumnSpec(name="kind", categories=("x", "y")),
            ),
        ),
        ModalitySpec(name="review", kind="text", columns=(ColumnSpec(name="body"),)),
    ),
    task=TaskSpec.regression(("price", "rating")),
)


def some_samples(num_rows: int = 40, seed: int = 0) -> Samples:
    draws = np.random.default_rng(seed)
    table = np.column_stack(
        [
            draws.normal(40, 10, num_rows),
            draws.choice([0.0, 2.0, np.nan], num_rows),
            draws.normal(5, 1, num_rows),
            draws.integers(0, 2, num_rows),
        ]
    )
    table[::4, 2] = np.nan
    available = {m.name: draws.random(num_rows) < 0.8 for m in SPEC.modalities}
    inputs = {
        "photo": draws.integers(0, 255, (num_rows, 2, 3, 3)).astype(np.float32),
        "vec": draws.normal(3, 2, (num_rows, 4)).astype(np.float32),
        "clicks": draws.normal(-1, 5, (num_rows, 5, 2)).astype(np.float32),
        "meta": table,
        "review": np.asarray([f"word{i} fits well" for i in range(num_rows)], object),
    }
    ids = np.asarray([str(i) for i in range(num_rows)], object)
    return Samples(inputs=inputs, available=available, ids=ids, target=draws.normal(100, 20, (num_rows, 2)))


def test_every_feature_of_the_available_rows_is_standardised():
    samples = some_samples()
    encoded = Preprocessor.fit(samples, SPEC).encode(samples)
    for name, axes in (("vec", (0,)), ("photo", (0, 2, 3)), ("clicks", (0, 1))):
        values = encoded.inputs[name][samples.available[name]]
        assert values.dtype == np.float32
        assert values.mean(axis=axes) == pytest.approx(0, abs=1e-5)
        assert values.std(axis=axes) == pytest.approx(1, abs=1e-5)


def test_rows_without_a_modality_encode_to_zeros_whatever_is_stored_there():
    samples = some_samples()
    fitted = Preprocessor.fit(samples, SPEC)
    wild = {n: v.copy() for n, v in samples.inputs.items()}
    for name, values in wild.items():
        values[~samples.available[name]] = "nonsense" if values.dtype == object else np.nan
    other = replace(samples, inputs=wild)
    assert Preprocessor.fit(other, SPEC) == fitted
    encoded = fitted.encode(other)
    for name in SPEC.names:
        assert not encoded.inputs[name][~samples.available[name]].any()
        assert (encoded.inputs[name] == fitted.encode(samples).inputs[name]).all()


def test_a_table_becomes_numbers_then_indicators_then_codes():
    samples = some_samples().without([])
    samples = replace(samples, available={**samples.available, "meta": np.ones(40, bool)})
    fitted = Preprocessor.fit(samples, SPEC)
    meta = fitted.spec["meta"]
    assert [c.name for c in meta.columns] == ["age", "size", "size is missing", "city", "kind"]
    assert meta.shape == (5,)
    assert meta.cardinalities == (3, 3)
    assert meta.num_numeric == 3
    assert meta.columns[3].categories == ("Bonn", "Köln")  # the others never occur in these rows
    values = fitted.encode(samples).inputs["meta"]
    absent = np.isnan(samples.inputs["meta"][:, 2])
    assert (values[:, 2] == absent).all()
    assert not values[absent, 1].any()
    raw = samples.inputs["meta"][:, 1]
    assert (values[:, 3] == np.select([raw == 0, raw == 2], [1, 2], 0)).all()


def test_an_unseen_or_unknown_category_is_code_zero():
    samples = some_samples()
    fitted = Preprocessor.fit(samples, SPEC)
    table = samples.inputs["meta"].copy()
    table[:, 1] = 1.0  # Kiel, never seen in training
    later = replace(samples, inputs={**samples.inputs, "meta": table})
    assert not fitted.encode(later).inputs["meta"][:, 3].any()


def test_constants_encode_to_zero_even_when_they_change_later():
    samples = some_samples()
    vec = samples.inputs["vec"].copy()
    vec[:, 0] = 0.1
    fitted = Preprocessor.fit(replace(samples, inputs={**samples.inputs, "vec": vec}), SPEC)
    vec[:, 0] = 1e6
    later = fitted.encode(replace(samples, inputs={**samples.inputs, "vec": vec}))
    assert not later.inputs["vec"][:, 0].any()


def test_a_wild_value_met_later_stays_finite():
    samples = some_samples()
    fitted = Preprocessor.fit(samples, SPEC)
    table = samples.inputs["meta"].copy()
    table[:, 0] = 1e300
    encoded = fitted.encode(replace(samples, inputs={**samples.inputs, "meta": table}))
    assert encoded.inputs["meta"].max() == 1e4


def test_a_small_spread_around_a_large_mean_is_kept():
    samples = some_samples()
    table = samples.inputs["meta"].copy()
    table[:, 0] = 1.7e9 + np.arange(40)
    mask = {**samples.available, "meta": np.ones(40, bool)}
    stamped = replace(samples, inputs={**samples.inputs, "meta": table}, available=mask)
    ages = Preprocessor.fit(stamped, SPEC).encode(stamped).inputs["meta"][:, 0]
    assert np.diff(ages) == pytest.approx(1 / np.arange(40).std(), rel=1e-4)


def test_blocks_do_not_change_the_answer(monkeypatch):
    samples = some_samples()
    whole = Preprocessor.fit(samples, SPEC)
    encoded = whole.encode(samples)
    monkeypatch.setattr("training_core.data.preprocessing._BLOCK_NUMBERS", 30)
    parts = Preprocessor.fit(samples, SPEC)
    for name in ("photo", "vec", "clicks", "meta"):
        assert parts.states[name].mean == pytest.approx(whole.states[name].mean, rel=1e-12)
        assert parts.states[name].scale == pytest.approx(whole.states[name].scale, rel=1e-12)
        assert (whole.encode(samples).inputs[name] == encoded.inputs[name]).all()


class CutElsewhere(HeldSamples):
    """Rows that arrive in blocks of other sizes than asked for, empty ones among them."""

    def __init__(self, samples: Samples, sizes: tuple[int, ...]) -> None:
        super().__init__(samples, SPEC)
        self.sizes, self.passes = sizes, 0

    def blocks(self, num_rows: int) -> Iterator[Samples]:
        self.passes += 1
        start = 0
        for turn in range(10 * len(self)):
            stop = start + self.sizes[turn % len(self.sizes)]
            yield self.samples(np.arange(start, min(stop, len(self))))
            start = stop
            if start >= len(self):
                return


@pytest.mark.parametrize("sizes", [(1,), (7,), (0, 13), (40,)])
@pytest.mark.parametrize("text", ["strings", "tokens"])
def test_rows_in_blocks_give_what_rows_in_memory_give(sizes, text):
    samples = some_samples()
    whole = Preprocessor.fit(samples, SPEC, text)
    source = CutElsewhere(samples, sizes)
    parts = Preprocessor.fit(source, SPEC, text)
    assert source.passes == 2
    assert parts.spec == whole.spec
    for name, state in whole.states.items():
        assert parts.states[name].mean == pytest.approx(state.mean, rel=1e-12)
        assert parts.states[name].scale == pytest.approx(state.scale, rel=1e-12)
        assert parts.states[name].indicators == state.indicators
        assert parts.states[name].seen == state.seen
    assert (parts.target_mean, parts.target_std) == (whole.target_mean, whole.target_std)
    assert Preprocessor.fit(HeldSamples(samples, SPEC), SPEC, text) == whole  # bit for bit: the same blocks


def test_the_moments_are_the_textbook_ones():
    samples = some_samples()
    states = Preprocessor.fit(samples, SPEC).states
    for name, axes in (("vec", (0,)), ("photo", (0, 2, 3)), ("clicks", (0, 1))):
        values = samples.inputs[name][samples.available[name]].astype(np.float64)
        assert states[name].mean == pytest.approx(values.mean(axis=axes), rel=1e-12)
        assert states[name].scale == pytest.approx(1 / values.std(axis=axes), rel=1e-12)
    table = samples.inputs["meta"][samples.available["meta"]][:, [0, 2]]
    assert states["meta"].mean == pytest.approx(np.nanmean(table, axis=0), rel=1e-12)
    assert states["meta"].scale == pytest.approx(1 / np.nanstd(table, axis=0), rel=1e-12)


def test_memory_does_not_grow_with_the_number_of_rows(monkeypatch):
    monkeypatch.setattr("training_core.data.preprocessing._BLOCK_NUMBERS", 1 << 14)
    spec = DataSpec(modalities=(SPEC["photo"], SPEC["vec"]), task=TaskSpec.classification("ab"))

    def peak(num_rows: int) -> int:
        held = HeldSamples(replace(some_samples(num_rows), target=np.arange(num_rows) % 2), spec)
        tracemalloc.start()
        Preprocessor.fit(held, spec)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(40_000) < 1.2 * peak(4_000)


def test_text_is_kept_as_strings_or_hashed_to_tokens():
    samples = some_samples()
    strings = Preprocessor.fit(samples, SPEC, text="strings")
    assert strings.spec["review"].vocabulary_size == 0
    mask = samples.available["review"]
    assert (strings.encode(samples).inputs["review"] == np.where(mask, samples.inputs["review"], "")).all()
    tokens = Preprocessor.fit(samples, SPEC, text="tokens")
    review = tokens.spec["review"]
    assert review.vocabulary_size == 2**15 + 1
    assert tokens.encode(samples).inputs["review"].shape == (40, *review.shape)


def test_regression_targets_are_standardised_and_come_back():
    samples = some_samples()
    assert samples.target is not None
    fitted = Preprocessor.fit(samples, SPEC)
    encoded = fitted.encode(samples).target
    assert encoded is not None
    assert encoded.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert encoded.std(axis=0) == pytest.approx(1)
    assert fitted.decode_target(encoded) == pytest.approx(samples.target)


def test_a_constant_target_is_not_divided_by_zero():
    samples = replace(some_samples(), target=np.full((40, 2), 7.0))
    fitted = Preprocessor.fit(samples, SPEC)
    assert fitted.target_std == (1.0, 1.0)
    assert not fitted.encode_target(np.full((3, 2), 7.0)).any()


def test_class_codes_pass_untouched():
    spec = SPEC.model_copy(update={"task": TaskSpec.classification("ab")})
    codes = np.arange(40) % 2
    fitted = Preprocessor.fit(replace(some_samples(), target=codes), spec)
    assert fitted.encode_target(codes) is codes
    assert fitted.decode_target(codes) is codes


@pytest.mark.parametrize("text", ["strings", "tokens"])
def test_json_gives_the_same_preprocessor_back_bit_for_bit(text):
    samples = some_samples()
    fitted = Preprocessor.fit(samples, SPEC, text=text)
    again = Preprocessor.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    one, other = fitted.encode(samples), again.encode(samples)
    assert all((one.inputs[name] == other.inputs[name]).all() for name in SPEC.names)


def test_a_damaged_description_is_refused():
    with pytest.raises(ConfigError, match="input_spec"):
        Preprocessor.from_dict({"text": "tokens"})


def test_a_modality_nobody_has_encodes_to_zeros():
    samples = some_samples().without(["vec", "meta", "review"])
    fitted = Preprocessor.fit(samples, SPEC)
    encoded = fitted.encode(some_samples())
    assert not encoded.inputs["vec"].any()
    assert encoded.inputs["review"].shape == (40, 1)
    assert fitted.spec["meta"].cardinalities == (1, 1)


def test_one_row_is_enough():
    samples = some_samples(1)
    assert np.isfinite(Preprocessor.fit(samples, SPEC).encode(samples).inputs["vec"]).all()


def test_only_training_rows_are_learned_from():
    samples = some_samples()
    half = np.arange(20)
    assert Preprocessor.fit(samples.take(half), SPEC) != Preprocessor.fit(samples, SPEC)
    scaled = {**samples.inputs, "vec": samples.inputs["vec"].copy()}
    scaled["vec"][20:] *= 1000
    assert Preprocessor.fit(replace(samples, inputs=scaled).take(half), SPEC) == Preprocessor.fit(
        samples.take(half), SPEC
    )


@pytest.mark.parametrize("text", ["strings", "tokens"])
def test_what_stands_in_the_held_out_rows_changes_nothing(text):
    samples, train = some_samples(), np.arange(0, 40, 2)
    before = Preprocessor.fit(HeldSamples(samples, SPEC).subset(train), SPEC, text)
    held_out = np.arange(1, 40, 2)
    other = {name: values.copy() for name, values in samples.inputs.items()}
    for name in ("photo", "vec", "clicks"):
        other[name][held_out] = 1e30
    other["meta"][held_out] = [np.nan, 1.0, np.nan, np.nan]  # an absent age, an unseen city
    other["review"][held_out] = "very " * 100 + "long"
    target = np.array(samples.target)
    target[held_out] = -1e9
    changed = replace(samples, inputs=other, target=target)
    masks = {name: np.where(np.arange(40) % 2 == 0, samples.available[name], True) for name in SPEC.names}
    changed = replace(changed, available=masks)
    assert Preprocessor.fit(HeldSamples(changed, SPEC).subset(train), SPEC, text) == before


def test_wrong_samples_are_refused_saying_what_was_expected():
    samples = some_samples()
    with pytest.raises(DataError, match="0 rows"):
        Preprocessor.fit(samples.take(np.arange(0)), SPEC)
    fitted = Preprocessor.fit(samples, SPEC)
    with pytest.raises(DataError, match=r"no modality 'photo'; they have vec"):
        fitted.encode(samples.select(["vec"]))
    with pytest.raises(DataError, match=r"'vec': one sample has shape \(3,\), expected \(4,\)"):
        fitted.encode(replace(samples, inputs={**samples.inputs, "vec": samples.inputs["vec"][:, :3]}))
    table = samples.inputs["meta"].copy()
    table[:, 0] = np.arange(40) * 4e306
    with pytest.raises(DataError, match="'meta' holds numbers too large"):
        Preprocessor.fit(replace(samples, inputs={**samples.inputs, "meta": table}), SPEC)


def test_a_selection_of_modalities_and_columns_is_encoded_alone():
    samples = some_samples()
    features = {"vec": (1, 3), "meta": (0, 1)}
    spec = SPEC.select(["vec", "meta"], features)
    chosen = samples.select(["vec", "meta"], features)
    fitted = Preprocessor.fit(chosen, spec)
    assert fitted.encode(chosen).inputs["vec"].shape == (40, 2)
    assert [c.name for c in fitted.spec["meta"].columns] == ["age", "city"]
