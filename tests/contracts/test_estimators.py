"""What every estimator promises: answers in the task's terms, robustness to poor data, saving without pickle."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_cases import (
    CLASSES,
    LABELS,
    TASKS,
    VALUES,
    VECTOR,
    every_estimator,
    kind,
    samples_for,
    score,
    spec_for,
    spoil_absent,
)

from training_core.errors import DataError, StorageError
from training_core.learners import Estimator, LearnerSettings
from training_core.learners.saved_state import read_state, write_state
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec

pytestmark = pytest.mark.filterwarnings("error")  # no warning may reach the screen


def fitted(config: Any, spec: DataSpec, samples: Samples, seed: int = 0, **how: Any) -> Estimator:
    return config.build(spec, seed).fit(samples, **how)


@TASKS
@every_estimator
def test_it_learns_and_answers_in_the_tasks_terms(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train, test = samples_for(spec, 150), samples_for(spec, 60, seed=1)
    predicted = fitted(config, spec, train).predict(test)
    assert predicted.shape == (60, task.num_outputs) and predicted.dtype == np.float64
    assert test.target is not None and score(task, predicted, test.target) > 0.85
    if task.kind != "regression":
        assert (predicted > 0).all() and (predicted < 1).all()
    if task.kind == "classification":
        np.testing.assert_allclose(predicted.sum(axis=1), 1)


@TASKS
@every_estimator
def test_save_and_load_give_equal_predictions_without_pickle(config: Any, task: TaskSpec, tmp_path: Path) -> None:
    spec = spec_for(config, task)
    samples = samples_for(spec)
    estimator = fitted(config, spec, samples)
    estimator.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["estimator.npz"]
    loaded = config.build(spec, 1).load(tmp_path)
    assert np.array_equal(loaded.predict(samples), estimator.predict(samples))


@every_estimator
def test_the_same_fitted_state_is_saved_as_the_same_bytes(config: Any, tmp_path: Path) -> None:
    spec = spec_for(config, LABELS)
    saved = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        fitted(config, spec, samples_for(spec)).save(tmp_path / name)
        saved.append((tmp_path / name / "estimator.npz").read_bytes())
    config.build(spec, 0).load(tmp_path / "first").save(tmp_path)
    assert saved == 2 * [(tmp_path / "estimator.npz").read_bytes()]


@every_estimator
@pytest.mark.parametrize("content", [b"", b"not a zip file", None])
def test_a_file_that_cannot_be_read_is_refused(config: Any, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "estimator.npz").write_bytes(content)
    with pytest.raises(StorageError, match="train it again"):
        config.build(spec_for(config, CLASSES), 0).load(tmp_path)


@every_estimator
def test_a_damaged_file_is_refused_or_answers_as_before(config: Any, tmp_path: Path) -> None:
    spec = spec_for(config, CLASSES)
    samples, path = samples_for(spec), tmp_path / "estimator.npz"
    estimator = fitted(config, spec, samples)
    estimator.save(tmp_path)
    content, expected, refused = path.read_bytes(), estimator.predict(samples), 0
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged if place % 4 else content[:place])
        try:  # a date in the archive may change without harm
            assert np.array_equal(config.build(spec, 0).load(tmp_path).predict(samples), expected)
        except StorageError:
            refused += 1
    assert refused > 40


@every_estimator
def test_a_file_of_another_task_is_refused(config: Any, tmp_path: Path) -> None:
    spec = spec_for(config, CLASSES)
    fitted(config, spec, samples_for(spec)).save(tmp_path)
    with pytest.raises(StorageError, match="train it again"):
        config.build(spec_for(config, LABELS), 0).load(tmp_path)


@TASKS
@every_estimator
def test_a_file_with_any_value_changed_is_refused(config: Any, task: TaskSpec, tmp_path: Path) -> None:
    spec, path = spec_for(config, task), tmp_path / "estimator.npz"
    fitted(config, spec, samples_for(spec)).save(tmp_path)

    def changes(value: Any) -> Iterator[Any]:
        """The state with one of its values at a time missing, of another type, or of another shape."""
        if isinstance(value, dict):
            for name in value:
                yield {other: kept for other, kept in value.items() if other != name}
                yield from ({**value, name: changed} for changed in changes(value[name]))
        elif isinstance(value, np.ndarray):
            yield from (7, value[..., None], value[:-1], value.astype(np.complex128), value.astype(str))
        else:
            yield from ([7], np.zeros(2), {"a": value})

    for state in list(changes(read_state(path))):
        write_state(path, state)
        with pytest.raises(StorageError, match="train it again"):
            config.build(spec, 0).load(tmp_path)


@every_estimator
def test_same_seed_same_predictions(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    samples = samples_for(spec)
    np.random.seed(1)
    first = fitted(config, spec, samples, seed=3).predict(samples)
    np.random.seed(2)
    assert np.array_equal(first, fitted(config, spec, samples, seed=3).predict(samples))


@TASKS
@every_estimator
def test_absent_values_do_not_matter_to_fitting_or_answering(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train, test = samples_for(spec), samples_for(spec, 30, seed=1)
    clean = fitted(config, spec, train).predict(test)
    assert np.array_equal(clean, fitted(config, spec, spoil_absent(train)).predict(spoil_absent(test)))


@TASKS
@every_estimator
def test_it_survives_every_missing_modality(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    estimator = fitted(config, spec, samples_for(spec))
    test = samples_for(spec, 20, seed=1)
    for missing in [*([name] for name in spec.names), list(spec.names)]:
        assert np.isfinite(estimator.predict(test.without(missing))).all()


@TASKS
@every_estimator
def test_a_modality_that_no_training_row_has_is_no_obstacle(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train, test = samples_for(spec), samples_for(spec, 20, seed=1)
    assert np.isfinite(fitted(config, spec, train.without([spec.names[0], spec.names[-1]])).predict(test)).all()
    assert np.isfinite(fitted(config, spec, train.without(spec.names)).predict(test)).all()


@every_estimator
def test_a_class_no_training_row_has_is_unlikely_and_not_impossible(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    assert train.target is not None
    predicted = fitted(config, spec, train.take(np.flatnonzero(train.target != 1))).predict(train)
    assert predicted.shape == (90, 3)
    assert (predicted[:, 1] > 0).all() and (predicted[:, 1] < 0.01).all()
    assert score(CLASSES, predicted[train.target != 1], train.target[train.target != 1]) > 0.85


@every_estimator
def test_a_single_class_is_learnt_as_a_constant(config: Any, tmp_path: Path) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    assert train.target is not None
    estimator = fitted(config, spec, train.take(np.flatnonzero(train.target == 2)))
    assert (estimator.predict(train)[:, 2] > 0.9).all()
    estimator.save(tmp_path)
    assert np.array_equal(config.build(spec, 0).load(tmp_path).predict(train), estimator.predict(train))


@every_estimator
def test_labels_that_never_vary_are_learnt_as_constants(config: Any) -> None:
    spec = spec_for(config, LABELS)
    train = samples_for(spec)
    assert train.target is not None
    always = replace(train, target=np.stack([train.target[:, 0], np.ones(90, dtype=np.float32)], axis=1))
    predicted = fitted(config, spec, always).predict(train)
    assert (predicted[:, 1] > 0.9).all() and score(LABELS, predicted[:, :1], train.target[:, :1]) > 0.85


@every_estimator
def test_a_row_drawn_twice_counts_like_a_row_of_weight_two(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    drawn = np.random.default_rng(0).integers(0, 90, 90)
    rows, counts = np.unique(drawn, return_counts=True)
    twice = fitted(config, spec, train.take(np.sort(drawn))).predict(train)
    weighted = fitted(config, spec, train.take(rows), weight=counts.astype(np.float64)).predict(train)
    assert np.array_equal(twice, weighted)


@every_estimator
def test_weights_matter(config: Any) -> None:
    spec = spec_for(config, VALUES)
    train = samples_for(spec)
    assert train.target is not None
    heavy = np.where(train.target[:, 0] > 0, 1.0, 1e-3)
    plain, pulled = fitted(config, spec, train).predict(train), fitted(config, spec, train, weight=heavy).predict(train)
    assert not np.allclose(plain, pulled)


@TASKS
@every_estimator
@pytest.mark.parametrize("num_rows", [2, 7])
def test_a_handful_of_rows_is_enough(config: Any, task: TaskSpec, num_rows: int) -> None:
    spec = spec_for(config, task)
    predicted = fitted(config, spec, samples_for(spec, num_rows)).predict(samples_for(spec, 5, seed=1))
    assert predicted.shape == (5, task.num_outputs) and np.isfinite(predicted).all()


@TASKS
@every_estimator
def test_constant_columns_are_no_obstacle(config: Any, task: TaskSpec) -> None:
    spec = spec_for(config, task)
    train = samples_for(spec)
    constant = {n: np.full_like(v, "the") if v.dtype == object else np.zeros_like(v) for n, v in train.inputs.items()}
    assert np.isfinite(fitted(config, spec, replace(train, inputs=constant)).predict(train)).all()


@every_estimator
def test_no_rows_are_refused_to_fit_and_fine_to_predict(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = samples_for(spec)
    nothing = train.take(np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="got 0 rows"):
        fitted(config, spec, nothing)
    with pytest.raises(DataError, match="target"):
        fitted(config, spec, replace(train, target=None))
    assert fitted(config, spec, train).predict(nothing).shape == (0, 3)


@every_estimator
def test_groups_are_taken_into_account_without_changing_the_shape(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    train = replace(samples_for(spec), groups=np.array([f"g{i // 3}" for i in range(90)], dtype=object))
    assert score(CLASSES, fitted(config, spec, train).predict(train), np.asarray(train.target)) > 0.85


@every_estimator
def test_a_single_column_is_enough(config: Any) -> None:
    if "vector" not in config.modality_kinds or kind(config) == "tfidf_linear":
        pytest.skip("this learner needs a text")
    spec = DataSpec(modalities=(VECTOR.model_copy(update={"shape": (1,)}),), task=CLASSES)
    samples = samples_for(spec)
    assert np.isfinite(fitted(config, spec, samples).predict(samples)).all()


@every_estimator
def test_too_many_columns_are_a_reason_not_to(config: Any) -> None:
    huge = ModalitySpec(name="photo", kind="image", shape=(3, 64, 64))
    spec = spec_for(config, CLASSES)
    reason = config.supports(spec.model_copy(update={"modalities": (*spec.modalities, huge)}))
    assert "too many" in reason


def test_text_is_asked_for_where_it_is_needed() -> None:
    spec = DataSpec(modalities=(VECTOR,), task=CLASSES)
    assert "text" in str(LearnerSettings().tfidf_linear.supports(spec))
