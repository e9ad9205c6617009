import numpy as np
import pytest

from training_core.evaluation import conflict
from training_core.evaluation.conflict import ConflictConfig, conflict_score, spoil
from training_core.evaluation.predictions import Predictions
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

COLUMNS = (ColumnSpec(name="age"), ColumnSpec(name="gap"), ColumnSpec(name="city", categories=("a", "b", "c")))
MODALITIES = (
    ModalitySpec(name="vec", kind="vector", shape=(3,)),
    ModalitySpec(name="meta", kind="tabular", shape=(3,), columns=COLUMNS),
    ModalitySpec(name="photo", kind="image", shape=(1, 4, 4)),
    ModalitySpec(name="note", kind="text"),
)
CLASSES = TaskSpec.classification("abc")


def a_world(task=CLASSES, num_rows=200, modalities=MODALITIES):
    draws = np.random.default_rng(0)
    code = draws.integers(0, 3, num_rows)
    table = np.column_stack(
        [draws.normal(40, 10, num_rows), draws.normal(size=num_rows), draws.integers(0, 3, num_rows)]
    )
    table[::2, 1] = np.nan
    spec = DataSpec(modalities=modalities, task=task)
    inputs = {
        "vec": (code[:, None] + draws.random((num_rows, 3))).astype(np.float32),
        "meta": table,
        "photo": draws.random((num_rows, 1, 4, 4)).astype(np.float32),
        "note": np.array([f"word{c} other{i} third" for i, c in enumerate(code)], object),
    }
    target = {
        "classification": code,
        "multilabel": np.eye(3, dtype=np.float32)[code],
        "regression": (code[:, None] + 0.1 * draws.normal(size=(num_rows, 3))),
    }[task.kind]
    available = {m.name: draws.random(num_rows) < 0.9 for m in modalities}
    ids = np.array([str(i) for i in range(num_rows)], object)
    return spec, Samples({m.name: inputs[m.name] for m in modalities}, available, ids, target)


def same(before, after):
    """Which cells did not change, bool [N]."""
    if before.dtype == object:
        return before == after
    flat = np.isclose(before.reshape(len(before), -1), after.reshape(len(after), -1), rtol=0, atol=0, equal_nan=True)
    return flat.all(axis=1)


def test_as_many_rows_are_spoilt_as_asked_and_nothing_else_changes():
    spec, samples = a_world()
    untouched = {name: values.copy() for name, values in samples.inputs.items()}
    found = spoil(spec, samples, ConflictConfig(noisy_rows=0.1, conflicting_rows=0.4), seed=1)
    assert found.noisy.sum() == 20
    assert 70 <= found.swapped.sum() <= 80  # rows with a single modality cannot contradict themselves
    changed = ~np.stack([same(samples.inputs[n], found.samples.inputs[n]) for n in spec.names])
    assert not changed[:, ~found.noisy & ~found.swapped].any()
    only_swapped = found.swapped & ~found.noisy
    assert (changed[:, only_swapped].sum(axis=0) <= 1).all()
    present = np.stack([samples.available[name] for name in spec.names])
    assert not (changed & ~present).any()
    assert all((samples.inputs[name] == untouched[name]).all() for name in ("vec", "photo", "note"))
    assert found.samples.target is samples.target
    assert (spoil(spec, samples, ConflictConfig(), 1).swapped == found.swapped).all()


@pytest.mark.parametrize(
    "task", [CLASSES, TaskSpec.multilabel("abc"), TaskSpec.regression("abc")], ids=lambda t: t.kind
)
def test_a_swapped_modality_is_that_of_a_row_with_another_answer(task):
    spec, samples = a_world(task, modalities=(MODALITIES[0], MODALITIES[2]))
    assert samples.target is not None
    found = spoil(spec, samples, ConflictConfig(noisy_rows=0.0, conflicting_rows=1.0))
    assert not found.noisy.any()
    for name in spec.names:
        for row in np.flatnonzero(~same(samples.inputs[name], found.samples.inputs[name])):
            donor = np.flatnonzero(
                (samples.inputs[name] == found.samples.inputs[name][row]).reshape(len(samples), -1).all(axis=1)
            )
            assert len(donor) == 1
            assert samples.available[name][donor[0]]
            far = np.abs(samples.target[donor[0]] - samples.target[row])
            assert (far >= samples.target.std(axis=0)).any() if task.kind == "regression" else np.any(far > 0)


def test_noise_is_in_units_of_the_range_and_leaves_gaps_and_codes_what_they_are():
    spec, samples = a_world(num_rows=2000, modalities=(MODALITIES[0], MODALITIES[1], MODALITIES[3]))
    found = spoil(spec, samples, ConflictConfig(noisy_rows=1.0, conflicting_rows=0.0, noise_std=0.5))
    before, after = samples.inputs["vec"], found.samples.inputs["vec"]
    rows = ~same(before, after)
    span = np.ptp(before[samples.available["vec"]], axis=0)
    assert (after - before)[rows].std(axis=0) / span == pytest.approx(np.full(3, 0.5), rel=0.08)
    table, spoilt = samples.inputs["meta"], found.samples.inputs["meta"]
    assert (np.isnan(table[:, 1]) == np.isnan(spoilt[:, 1])).all()
    assert set(spoilt[:, 2]) <= {0.0, 1.0, 2.0}
    assert (spoilt[:, 2] != table[:, 2]).any()
    words = [len(text.split()) for text in found.samples.inputs["note"]]
    assert set(words) == {3}
    assert not same(samples.inputs["note"], found.samples.inputs["note"]).all()


def test_ranges_are_taken_once_per_modality_however_many_rows_get_noise(monkeypatch):
    asked = []
    real = conflict._spans
    monkeypatch.setattr(conflict, "_spans", lambda raw, rows: asked.append(len(rows)) or real(raw, rows))
    spec, samples = a_world()
    samples.available["photo"][:] = False
    assert spoil(spec, samples, ConflictConfig(noisy_rows=1.0)).noisy.sum() > 150
    assert len(asked) == 2, "the vector and the table; nobody has a photo, and words have no range"


def test_one_modality_cannot_contradict_itself():
    spec, samples = a_world(modalities=MODALITIES[:1])
    assert not spoil(spec, samples).swapped.any()


def test_a_class_without_others_is_left_alone_and_targets_are_needed():
    spec, samples = a_world()
    samples = Samples(samples.inputs, samples.available, samples.ids, np.zeros(200, int))
    assert not spoil(spec, samples).swapped.any()
    with pytest.raises(ValueError, match="known targets"):
        spoil(spec, Samples(samples.inputs, samples.available, samples.ids))


def test_the_score_says_what_became_of_which_rows():
    spec, samples = a_world()
    assert samples.target is not None
    spoilt = spoil(spec, samples, ConflictConfig(noisy_rows=0.2, conflicting_rows=0.3))
    right = np.eye(3)[samples.target] * 0.85 + 0.05
    fooled = np.where(spoilt.swapped[:, None], np.roll(right, 1, axis=1) * 0.5 + 0.5 / 3, right)
    before = Predictions(right, right.max(axis=1), np.ones(200, int))
    after = Predictions(fooled, fooled.max(axis=1), np.ones(200, int))
    found = conflict_score(CLASSES, samples.target, "p", before, after, spoilt)
    assert found.clean == 0
    assert found.spoilt == pytest.approx(spoilt.swapped.mean())
    assert found.swapped == 1.0
    assert found.noisy == pytest.approx(spoilt.swapped[spoilt.noisy].mean())
    assert found.confidence_drop == pytest.approx(0.9 - (0.45 + 0.5 / 3))
    assert found.conflict_auroc == 1.0
    assert (found.num_swapped, found.num_noisy) == (spoilt.swapped.sum(), spoilt.noisy.sum())
    blind = conflict_score(CLASSES, samples.target, "p", before, before, spoilt)
    assert blind.conflict_auroc is None
    assert blind.confidence_drop == 0
