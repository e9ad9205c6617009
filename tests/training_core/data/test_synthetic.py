import filecmp
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.data.synthetic import (
    DriftConfig,
    SyntheticConfig,
    SyntheticModality,
    SyntheticWorld,
    make_synthetic,
)
from training_core.data.synthetic.world import MISSING_AT_RANDOM, MISSING_BY_LABEL, PRESENT
from training_core.errors import DataError

KINDS = ["vector", "tabular", "image", "sequence", "text"]


def a_world(*modalities: dict[str, Any], num_rows: int = 8000, **settings: Any) -> SyntheticWorld:
    given = [SyntheticModality.model_validate(modality) for modality in modalities]
    return make_synthetic(SyntheticConfig.model_validate({"modalities": given, "num_rows": num_rows, **settings}))


def features(world: SyntheticWorld, *names: str) -> np.ndarray:
    """What a linear model can be given of some modalities."""
    columns = []
    for name in names:
        values = world.modalities[name]
        if isinstance(values, list):
            values = CountVectorizer().fit_transform([text or "" for text in values]).toarray()
        elif isinstance(values, pd.DataFrame):
            values = pd.get_dummies(values)
        columns.append(np.asarray(values, np.float64).reshape(len(world), -1))
    return np.nan_to_num(np.concatenate(columns, axis=1))


def score(world: SyntheticWorld, model: Any, *names: str, target: np.ndarray | None = None) -> float:
    """Accuracy or R² on the second half of a model fitted on the first."""
    inputs, half = features(world, *names), len(world) // 2
    answers = (world.target if target is None else target).reshape(len(world), -1).squeeze()
    return float(model.fit(inputs[:half], answers[:half]).score(inputs[half:], answers[half:]))


INFORMATIVE = {"name": "a", "strength": 2.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_probe_of_an_informative_modality_comes_up_to_the_stated_bound(kind):
    world = a_world({**INFORMATIVE, "kind": kind}, seed=1)
    found, best = score(world, LinearDiscriminantAnalysis(), "a"), world.best_score(["a"])
    assert found == pytest.approx(best, abs=0.03 if kind == "text" else 0.02)
    assert found < best + 0.015


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_at_chance_whatever_it_looks_like(kind):
    world = a_world({**INFORMATIVE}, {"name": "hum", "kind": kind, "role": "noise"})
    assert world.best_score(["hum"]) == pytest.approx(1 / 3)
    assert score(world, LinearDiscriminantAnalysis(), "hum") == pytest.approx(1 / 3, abs=0.03)


def test_a_redundant_modality_tells_as_much_alone_and_adds_nothing():
    world = a_world({**INFORMATIVE, "kind": "image"}, {"name": "echo", "role": "redundant", "copies": "a"}, seed=2)
    alone, both = world.best_score(["echo"]), world.best_score(["a", "echo"])
    assert alone == both == world.best_score(["a"])
    probe = LinearDiscriminantAnalysis()
    assert score(world, probe, "echo") == pytest.approx(alone, abs=0.02)
    assert score(world, probe, "a", "echo") == pytest.approx(score(world, probe, "a"), abs=0.01)


def test_two_informative_modalities_tell_more_than_each_of_them():
    world = a_world({**INFORMATIVE, "strength": 1.0}, {"name": "b", "strength": 1.0, "kind": "tabular"})
    one, both = world.best_score(["a"]), world.best_score(["a", "b"])
    assert both > one + 0.08
    assert score(world, LinearDiscriminantAnalysis(), "a", "b") == pytest.approx(both, abs=0.02)


LEFT, RIGHT = ({"name": name, "role": "complementary", "strength": 3.0, "size": 4} for name in ("left", "right"))


def test_complementary_modalities_are_at_chance_alone_and_good_together():
    world = a_world(LEFT, RIGHT, num_outputs=2)
    assert world.best_score(["left"]) == world.best_score(["right"]) == 0.5
    lead = 2 * norm.cdf(3 / np.sqrt(2)) - 1
    assert world.best_score() == pytest.approx((1 + lead**2) / 2)
    curved = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    assert score(world, curved, "left") == pytest.approx(0.5, abs=0.03)
    assert score(world, curved, "right") == pytest.approx(0.5, abs=0.03)
    net = MLPClassifier((32,), early_stopping=True, random_state=0)
    assert score(world, net, "left", "right") == pytest.approx(world.best_score(), abs=0.02)


def test_three_complementary_modalities_of_three_classes_need_each_other():
    third = {**LEFT, "name": "third"}
    world = a_world(LEFT, RIGHT, third, {"name": "echo", "role": "redundant", "copies": "right"})
    for pattern in (["left", "right"], ["left", "third"], ["right", "third"], ["left", "right", "echo"]):
        assert world.best_score(pattern) == pytest.approx(1 / 3)
        assert world.best_predictions(pattern) == pytest.approx(1 / 3)
    assert world.best_score() > 0.9
    assert world.best_score(["left", "echo", "third"]) == world.best_score()
    assert (world.best_predictions().argmax(axis=1) == world.clean).mean() == pytest.approx(
        world.best_score(), abs=0.01
    )


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize(
    "pattern", [("a",), ("left",), ("left", "right"), ("a", "left", "right"), ("a", "hum", "left")]
)
@pytest.mark.parametrize("label_noise", [0.0, 0.2])
def test_the_best_predictions_reach_the_best_score(task, pattern, label_noise):
    hum = {"name": "hum", "role": "noise"}
    world = a_world(INFORMATIVE, LEFT, RIGHT, hum, task=task, label_noise=label_noise, num_rows=40_000)
    found = world.best_predictions(pattern)
    if task == "regression":
        given = [(world.clean, True), (world.target, False)]
        for target, clean in given:
            r2 = 1 - ((target - found) ** 2).sum() / ((target - target.mean(axis=0)) ** 2).sum()
            assert r2 == pytest.approx(world.best_score(pattern, clean=clean), abs=0.02)
        return
    decided = found > 0.5 if task == "multilabel" else found.argmax(axis=1)
    codes = world.target if task == "multilabel" else np.asarray([int(label.split()[1]) for label in world.target])
    assert (decided == world.clean).mean() == pytest.approx(world.best_score(pattern, clean=True), abs=0.01)
    assert (decided == codes).mean() == pytest.approx(world.best_score(pattern), abs=0.01)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_probes_of_other_tasks_come_up_to_the_bound_too(task):
    world = a_world(INFORMATIVE, {**INFORMATIVE, "name": "b"}, task=task, label_noise=0.1, num_outputs=1)
    model = LogisticRegression() if task == "multilabel" else LinearRegression()
    assert score(world, model, "a") == pytest.approx(world.best_score(["a"]), abs=0.02)
    assert score(world, model, "a", "b") == pytest.approx(world.best_score(), abs=0.02)


def test_a_product_of_two_modalities_is_invisible_in_each():
    world = a_world(LEFT, RIGHT, task="regression", num_outputs=1)
    assert world.best_score(["left"]) == 0
    assert world.best_score() == 1
    assert score(world, LinearRegression(), "left", "right") == pytest.approx(0, abs=0.02)
    product = (world.latents["left"] * world.latents["right"]) * 3.0
    assert world.target == pytest.approx(product)


def test_wrong_labels_are_as_many_as_was_asked_for_and_known():
    world = a_world(INFORMATIVE, label_noise=0.2, num_rows=20_000)
    codes = np.asarray([int(label.split()[1]) for label in world.target])
    assert ((codes != world.clean) == world.wrong).all()
    assert world.wrong.mean() == pytest.approx(0.2, abs=0.01)
    labels = a_world(INFORMATIVE, task="multilabel", label_noise=0.1, num_rows=20_000)
    assert ((labels.target != labels.clean) == labels.wrong).all()
    assert labels.clean.mean(axis=0) == pytest.approx(0.3, abs=0.02)
    values = a_world(INFORMATIVE, task="regression", label_noise=0.25, num_rows=20_000)
    assert (values.wrong.var(axis=0) / values.target.var(axis=0)) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_modalities_are_missing_as_often_as_was_asked_for_and_for_the_stated_reason(kind, task):
    world = a_world(
        {"name": "whole"},
        {"name": "a", "kind": kind, "missing": 0.2, "missing_by_label": 0.5},
        task=task,
        num_outputs=2,
    )
    first = world.clean if world.clean.ndim == 1 else world.clean[:, 0]
    high, why = first > 0, world.missing["a"]
    assert (why[high] != PRESENT).mean() == pytest.approx(1 - 0.8 * 0.5, abs=0.03)
    assert (why[~high] != PRESENT).mean() == pytest.approx(0.2, abs=0.03)
    assert not (why[~high] == MISSING_BY_LABEL).any()
    assert (why == MISSING_AT_RANDOM).mean() == pytest.approx(0.2, abs=0.02)
    values: Any = world.modalities["a"]
    if isinstance(values, list):
        empty = np.asarray([text is None for text in values])
    elif isinstance(values, pd.DataFrame):
        empty = values.isna().all(axis=1).to_numpy()
        assert not values[~empty].isna().any(axis=None)
    else:
        empty = np.isnan(values.reshape(len(values), -1)).all(axis=1)
        assert not np.isnan(values[~empty]).any()
    assert (empty == (why != PRESENT)).all()
    assert (world.available()["a"] == ~empty).all()


def test_no_row_lacks_everything():
    world = a_world({"name": "a", "missing": 0.7}, {"name": "b", "missing": 0.7})
    present = np.stack(list(world.available().values()))
    assert present.any(axis=0).all()
    assert present.mean() == pytest.approx(0.3 + 0.49 / 2, abs=0.02)


def test_covariate_drift_moves_the_inputs_by_what_was_asked_for_and_keeps_the_answers():
    drift = DriftConfig(start=0.6, covariate=3.0)
    modalities = [INFORMATIVE, {"name": "b", "kind": "image", "strength": 0.0}]
    still, moved = a_world(*modalities), a_world(*modalities, drift=drift)
    assert (still.target == moved.target).all()
    assert moved.drifted.tolist() == [False] * 4800 + [True] * 3200
    for name in ("a", "b"):
        step = features(moved, name) - features(still, name)
        assert np.linalg.norm(step[moved.drifted], axis=1) == pytest.approx(3.0, rel=1e-4)
        assert not step[~moved.drifted].any()
    assert not moved.reversed_concept.any()


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_concept_drift_changes_the_answers_and_keeps_the_inputs(task):
    drift = DriftConfig(start=0.5, concept=0.4)
    still, turned = a_world(INFORMATIVE, task=task), a_world(INFORMATIVE, task=task, drift=drift)
    assert (features(still, "a") == features(turned, "a")).all()
    changed = (still.clean != turned.clean).reshape(len(still), -1).any(axis=1)
    assert (changed == turned.reversed_concept).all()
    assert changed[~turned.drifted].sum() == 0
    assert changed[turned.drifted].mean() == pytest.approx(0.4, abs=0.03)


def test_drift_ruins_what_was_learned_before_it():
    world = a_world(INFORMATIVE, drift=DriftConfig(start=0.5, concept=0.8), num_outputs=2)
    assert score(world, LinearDiscriminantAnalysis(), "a") < 0.5


def test_rows_of_a_group_share_an_offset():
    world = a_world({**INFORMATIVE, "strength": 0.0}, num_groups=40, group_effect=2.0, num_rows=4000)
    assert world.groups is not None
    frame = pd.DataFrame(features(world, "a")).groupby(world.groups)
    assert frame.mean().std().mean() == pytest.approx(2.0, abs=0.4)
    assert frame.std().mean().mean() == pytest.approx(1.0, abs=0.05)
    assert len(set(world.groups)) == 40


def test_times_go_up_by_the_hour():
    world = a_world(INFORMATIVE, times=True, num_rows=30)
    assert world.times is not None
    assert (np.diff(world.times) == np.timedelta64(1, "h")).all()
    assert a_world(INFORMATIVE, num_rows=30).times is None


EVERYTHING: dict[str, Any] = {
    "num_rows": 120,
    "modalities": [
        *({"name": kind, "kind": kind, "missing": 0.1} for kind in KINDS),
        {**LEFT},
        {**RIGHT},
        {"name": "hum", "role": "noise", "kind": "text"},
        {"name": "echo", "role": "redundant", "kind": "tabular", "copies": "image", "missing_by_label": 0.3},
    ],
    "label_noise": 0.1,
    "num_groups": 10,
    "group_effect": 0.5,
    "times": True,
    "drift": {"covariate": 1.0, "concept": 0.1},
}


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_same_seed_same_bytes(tmp_path: Path, task):
    config = SyntheticConfig.model_validate({**EVERYTHING, "task": task})
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        make_synthetic(config.model_copy(update={"seed": seed})).write(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["arrays.npz", "echo.parquet", "rows.csv", "source.yaml", "tabular.parquet"]
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "again", files, shallow=False)[0] == files
    assert "rows.csv" in filecmp.cmpfiles(tmp_path / "one", tmp_path / "other", files, shallow=False)[1]


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_a_written_world_is_a_source_that_can_be_prepared(tmp_path: Path, task):
    world = make_synthetic(SyntheticConfig.model_validate({**EVERYTHING, "task": task}))
    dataset = prepare_dataset(world.write(tmp_path / "source"), DatasetStore(tmp_path / "store"))
    assert dataset.ids().tolist() == world.ids.tolist()
    for name, present in dataset.available().items():
        assert (present == world.available()[name]).all()
    assert {modality.name: modality.kind for modality in dataset.spec.modalities} == world.kinds
    target = dataset.target()
    if task == "classification":
        assert [dataset.spec.task.classes[code] for code in target] == world.target.tolist()
    else:
        assert target == pytest.approx(world.target)
    assert dataset.groups() is not None and dataset.times() is not None
    samples = dataset.samples()
    seen = world.available()["image"]
    assert (samples.inputs["image"][seen] == np.asarray(world.modalities["image"])[seen]).all()


def test_a_world_becomes_a_data_set_without_files_too(tmp_path: Path):
    world = make_synthetic(SyntheticConfig.model_validate(EVERYTHING))
    dataset = create_dataset_from_arrays(
        "made-up", world.modalities, world.target, task="classification", store=tmp_path, kinds=world.kinds,
        ids=world.ids, groups=world.groups, times=world.times,
    )  # fmt: skip
    for name, present in dataset.available().items():
        assert (present == world.available()[name]).all()


def test_another_modality_leaves_the_others_as_they_were():
    one = a_world(INFORMATIVE, LEFT, RIGHT, num_rows=50)
    more = a_world({"name": "new", "kind": "image"}, {**INFORMATIVE, "missing": 0.1}, LEFT, RIGHT, num_rows=50)
    assert (one.target == more.target).all()
    assert (features(one, "left", "right") == features(more, "left", "right")).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": [LEFT]}, "'left' is complementary to nothing"),
        ({"modalities": [{"name": "hum", "role": "noise"}]}, "no modality tells anything"),
        ({"modalities": [INFORMATIVE, INFORMATIVE]}, "modality a is listed twice"),
        ({"modalities": [INFORMATIVE, {"name": "b", "role": "redundant"}]}, "`copies` goes with role redundant"),
        ({"modalities": [INFORMATIVE, {"name": "b", "role": "redundant", "copies": "c"}]}, "'b' copies 'c'"),
        ({"num_outputs": 1}, "needs `num_outputs` of 2 or more"),
        ({"num_outputs": 9}, "has 8 numbers for 9 outputs|has 6 numbers for 9 outputs"),
    ],
)
def test_worlds_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        SyntheticConfig.model_validate(settings)


def test_an_unknown_modality_has_no_score():
    with pytest.raises(DataError, match="no modality 'smell'; this data has photo, facts"):
        make_synthetic(SyntheticConfig(num_rows=10)).best_score(["smell"])
