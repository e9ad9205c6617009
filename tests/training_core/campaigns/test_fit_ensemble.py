"""The library as a notebook uses it: arrays in, an ensemble out that predicts and tells how it came about."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score

import training_core as pc
from training_core.campaigns.callbacks import Concluded, Finished, Planned, Started, Usable
from training_core.errors import ConfigError, DataError, GateError

SETTINGS = {"preset": "tiny", "bags": {"num_bags": 4, "num_row_draws": 1}, "learners": {"include": ("linear",)}}


def views(num_rows: int = 240, seed: int = 0) -> tuple[dict[str, np.ndarray | pd.DataFrame | list[str]], np.ndarray]:
    """Three classes, 10, 20 and 30, seen by a vector and a table."""
    draws = np.random.default_rng(seed)
    codes = np.arange(num_rows) % 3
    centres = np.random.default_rng(5).normal(size=(3, 4))
    left = (centres[codes] + 0.5 * draws.normal(size=(num_rows, 4))).astype(np.float32)
    facts = pd.DataFrame({"size": codes + 0.5 * draws.normal(size=num_rows), "shop": np.array(["n", "s"])[codes % 2]})
    return {"left": left, "facts": facts}, codes * 10 + 10


class Recorder(pc.Callback):
    def __init__(self) -> None:
        self.seen: list[object] = []

    def on_planned(self, planned: Planned) -> None:
        self.seen.append(planned)

    def on_started(self, started: Started) -> None:
        self.seen.append(started)

    def on_finished(self, finished: Finished) -> None:
        self.seen.append(finished)

    def on_usable(self, usable: Usable) -> None:
        self.seen.append(usable)

    def on_concluded(self, concluded: Concluded) -> None:
        self.seen.append(concluded)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def watched(store: Path) -> "tuple[pc.FittedEnsemble, Recorder]":
    arrays, target = views()
    recorder = Recorder()
    split = np.where(np.arange(240) % 4 == 3, "test", "train")
    fitted = pc.fit_ensemble(
        arrays, store, target=target, split=split, processes=False, callbacks=[recorder], budget=600, **SETTINGS
    )
    return fitted, recorder


@pytest.fixture(scope="module")
def fitted(watched: "tuple[pc.FittedEnsemble, Recorder]") -> pc.FittedEnsemble:
    return watched[0]


def test_labels_are_those_of_the_target(fitted: pc.FittedEnsemble) -> None:
    arrays, target = views(seed=1)
    found = fitted.predict(arrays)
    assert found.labels.dtype == target.dtype
    assert accuracy_score(target, found) > 0.85, "an array of labels, as scikit-learn sees it"
    assert list(fitted.classes) == [10, 20, 30]


def test_probabilities_go_with_the_classes(fitted: pc.FittedEnsemble) -> None:
    arrays, _ = views(seed=1)
    values = fitted.predict_proba(arrays)
    np.testing.assert_allclose(values.sum(axis=1), 1)
    assert (fitted.classes[values.argmax(axis=1)] == fitted.predict(arrays).labels).all()


def test_a_modality_left_out_hidden_or_masked_is_the_same(fitted: pc.FittedEnsemble) -> None:
    arrays, _ = views(seed=1)
    left_out = fitted.predict({"left": arrays["left"]}).values
    hidden = fitted.predict(arrays, available=["left"]).values
    masked = fitted.predict(arrays, available={"facts": np.zeros(240, bool)}).values
    np.testing.assert_array_equal(left_out, hidden)
    np.testing.assert_array_equal(left_out, masked)
    assert fitted.confidence(arrays, available="left").mean() < fitted.confidence(arrays).mean()


def test_a_flat_table_predicts_the_same(fitted: pc.FittedEnsemble) -> None:
    arrays, _ = views(seed=1)
    left, facts = np.asarray(arrays["left"]), arrays["facts"]
    assert isinstance(facts, pd.DataFrame)
    flat = facts.assign(**{f"left_{i}": left[:, i] for i in range(4)})
    np.testing.assert_allclose(fitted.predict(flat).values, fitted.predict(arrays).values)


def test_what_cannot_be_predicted_for_is_said(fitted: pc.FittedEnsemble) -> None:
    arrays, _ = views()
    with pytest.raises(DataError, match="'top' is no modality; expected some of left, facts"):
        fitted.predict({"top": arrays["left"]})
    with pytest.raises(DataError, match="`available` names 'top', this ensemble knows left, facts"):
        fitted.predict(arrays, available=["top"])
    with pytest.raises(DataError, match=r"array 'left' is float32 \[240, 3\], expected numbers \[N, 4\]"):
        fitted.predict({"left": np.asarray(arrays["left"])[:, :3]})
    with pytest.raises(DataError, match="arrays differ in length: left 240, facts 10"):
        fitted.predict({"left": arrays["left"], "facts": pd.DataFrame(arrays["facts"])[:10]})
    with pytest.raises(DataError, match="got int, expected arrays by modality"):
        fitted.predict(3)


def test_tables_about_the_training(fitted: pc.FittedEnsemble) -> None:
    board = fitted.leaderboard()
    assert {"name", "learner", "modalities", "score", "weight", "seconds", "status"} <= set(board.columns)
    assert board["weight"].sum() == pytest.approx(1)
    assert board["score"].is_monotonic_decreasing
    why = fitted.explain_selection()
    assert len(why) == len(board)
    assert why["why_chosen"].str.contains("linear").all()
    assert (why["verdict"] == "kept").sum() == (why["weight"] > 0).sum()
    assert list(fitted.failures().columns) == ["learner", "kind", "modalities", "status", "why"]
    assert fitted.failures().empty


def test_the_report_of_modalities_has_every_pattern(fitted: pc.FittedEnsemble) -> None:
    table = fitted.modality_report()
    assert list(table["available"]) == ["left+facts", "left", "facts"]
    assert (table[["weight/left", "weight/facts"]].sum(axis=1) - 1).abs().max() < 1e-6
    assert table["score"].between(0.5, 1).all()
    assert (table["num_rows"] == 60).all()
    assert table["score"][0] >= table["score"][1:].max() - 0.05


def test_the_summary_reads_well_and_has_fields(fitted: pc.FittedEnsemble) -> None:
    summary = fitted.summary()
    assert summary.judgement is not None
    assert summary.judgement.score > 0.8
    assert summary.learners.trained == summary.learners.planned
    assert summary.budget is not None
    assert summary.budget.seconds == 600
    assert summary.budget.usable_seconds is not None
    assert 0 < summary.budget.usable_seconds < summary.seconds < 600
    assert summary.cost_model is not None
    text = str(summary)
    assert "accuracy" in text
    assert "without facts" in text
    assert "first usable ensemble after" in text


def test_callbacks_hear_what_happens_in_order(watched: "tuple[pc.FittedEnsemble, Recorder]") -> None:
    fitted, recorder = watched
    kinds = [type(said).__name__ for said in recorder.seen]
    assert kinds[0] == "Planned"
    assert kinds[-1] == "Concluded"
    assert kinds.count("Usable") == 1
    done = [said for said in recorder.seen if isinstance(said, Finished)]
    assert [said.num_done for said in done] == list(range(1, len(done) + 1))
    assert done[-1].eta_seconds == pytest.approx(0)
    scores = [said.score for said in done if said.score is not None]
    assert done[-1].leader_score == max(scores)
    assert len(done) == len(fitted.leaderboard())


def test_the_same_call_trains_nothing_again(fitted: pc.FittedEnsemble, store: Path) -> None:
    arrays, target = views()
    split = np.where(np.arange(240) % 4 == 3, "test", "train")
    again = pc.fit_ensemble(arrays, store, target=target, split=split, processes=False, budget=600, **SETTINGS)
    assert again.summary().learners.trained == 0
    assert again.folder == fitted.folder


def test_an_ensemble_loaded_later_predicts_but_does_not_know_its_training(fitted: pc.FittedEnsemble) -> None:
    arrays, _ = views(seed=1)
    later = pc.load_ensemble(fitted.folder)
    np.testing.assert_array_equal(later.predict(arrays).values, fitted.predict(arrays).values)
    assert list(later.classes) == ["10", "20", "30"]
    with pytest.raises(ConfigError, match="call fit_ensemble again"):
        later.leaderboard()


def test_floats_are_a_regression_and_several_are_several(store: Path) -> None:
    arrays, target = views()
    two = np.column_stack([target * 1.0, -target * 1.0])
    one = pc.fit_ensemble(arrays, store, target=target * 1.0, name="one", processes=False, **SETTINGS)
    both = pc.fit_ensemble(arrays, store, target=two, name="two", processes=False, **SETTINGS)
    assert one.predict(arrays).labels.shape == (240,)
    assert both.predict(arrays).labels.shape == (240, 2)
    assert one.task.kind == both.task.kind == "regression"
    assert one.summary().judgement is None, "there are no test rows"
    assert "not judged" in str(one.summary())
    with pytest.raises(ConfigError, match="a regression has no probabilities"):
        one.predict_proba(arrays)


def test_a_matrix_of_ones_and_zeros_is_multilabel(store: Path) -> None:
    arrays, target = views()
    labels = np.column_stack([target == 10, target >= 20]).astype(int)
    fitted = pc.fit_ensemble(arrays, store, target=labels, name="labels", processes=False, **SETTINGS)
    assert fitted.task.kind == "multilabel"
    found = fitted.predict(arrays).labels
    assert found.dtype == bool
    assert (found == labels).mean() > 0.85


def test_what_is_missing_or_contradictory_is_said(store: Path) -> None:
    arrays, target = views()
    with pytest.raises(ConfigError, match="arrays need a `target`"):
        pc.fit_ensemble(arrays, store)
    with pytest.raises(ConfigError, match="unknown key 'presets'"):
        pc.fit_ensemble(arrays, store, target=target, presets="quick")
    from training_core.campaigns.run_config import RunConfig

    with pytest.raises(ConfigError, match="got a whole RunConfig and preset"):
        pc.fit_ensemble(RunConfig(dataset="x"), store, preset="quick")


@pytest.mark.parametrize("settings", [{"executor": "dask"}, {"cluster": "tcp://host:8786"}])
def test_a_cluster_is_not_silently_left_alone(tmp_path: Path, settings: dict[str, str]) -> None:
    arrays, target = views()
    for call in (pc.fit_ensemble, pc.tune):
        with pytest.raises(ConfigError, match=r"in processes of this machine; .*`polychoir train`"):
            call(arrays, tmp_path, target=target, **settings)
    assert not any(tmp_path.iterdir())


def test_a_data_set_is_trained_on_as_it_is(fitted: pc.FittedEnsemble, store: Path) -> None:
    dataset = pc.open_dataset("arrays", store)
    again = pc.fit_ensemble(dataset, store, processes=False, budget=600, **SETTINGS)
    assert again.folder == fitted.folder
    assert len(again.predict(dataset)) == 60, "its test rows"


def test_a_budget_that_is_over_at_once_still_ends_with_a_predictor(tmp_path: Path) -> None:
    arrays, target = views()
    fitted = pc.fit_ensemble(arrays, tmp_path, target=target, processes=False, budget=0.01, **SETTINGS)
    assert len(fitted.kept) == 1
    assert accuracy_score(target, fitted.predict(arrays)) > 0.8
    assert (fitted.failures()["status"] == "skipped").all()
    assert len(fitted.failures()) > 0


def test_gates_are_held(store: Path) -> None:
    arrays, target = views()
    split = np.where(np.arange(240) % 4 == 3, "test", "train")
    call = {"target": target, "split": split, "processes": False, **SETTINGS}
    with pytest.raises(GateError, match=r"gates\.min_score: score is .*, at least 2 is wanted: missed"):
        pc.fit_ensemble(arrays, store, gates={"min_score": 2.0}, **call)
    with pytest.raises(GateError, match=r"row milliseconds is .*, at most 0 is wanted: missed"):
        pc.fit_ensemble(arrays, store, gates={"max_row_milliseconds": 0}, **call)
    passed = {"min_score": 0.5, "max_row_milliseconds": 60_000, "min_success_rate": 1.0}
    assert pc.fit_ensemble(arrays, store, gates=passed, **call).judgement is not None


def test_gates_on_test_rows_that_are_not_there_are_refused_before_the_training(store: Path) -> None:
    arrays, target = views()
    recorder = Recorder()
    with pytest.raises(ConfigError, match=r"`gates.min_score` is held against test rows, and arrays.* has none"):
        pc.fit_ensemble(arrays, store, target=target, gates={"min_score": 0.5}, callbacks=[recorder], **SETTINGS)
    assert not recorder.seen


def test_both_rounds_of_adaptive_bags_are_announced(store: Path) -> None:
    arrays, target = views()
    recorder = Recorder()
    settings = {**SETTINGS, "bags": {"num_bags": 4, "num_row_draws": 1, "strategy": "adaptive"}}
    pc.fit_ensemble(arrays, store, target=target, processes=False, callbacks=[recorder], **settings)
    first, second = (one for one in recorder.seen if isinstance(one, Planned))
    assert first.num_learners == 2 < second.num_learners
    assert isinstance(recorder.seen[0], Planned)
    assert all(0 < one.num_done <= one.num_learners for one in recorder.seen if isinstance(one, Finished))
