"""Tuning real learners on a small real data set, in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import training_core as pc
from training_core.campaigns.bagging import dataset_ref
from training_core.campaigns.dispatch import Outcome
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning import campaign
from training_core.campaigns.tuning.campaign import Tuner
from training_core.campaigns.tuning.library import tuned
from training_core.campaigns.tuning.storage import JOURNAL
from training_core.campaigns.tuning.summary import StudySummary, read_summary
from training_core.campaigns.tuning.tuned_run import tuned_run
from training_core.data.storage.store import Dataset
from training_core.errors import ConfigError, GateError, TransientError
from training_core.jobs import Cohort, Event, JobReport, Limits, failed_report, skipped_report

SMALL: dict[str, Any] = {
    "training": {"epochs": 4, "patience": 2, "checkpoint_seconds": 0},
    "tabular_mlp": {"width": 8},
    "trackers": (),
}
FEW: dict[str, Any] = {
    "trials": 4,
    "batch": 2,
    "startup_trials": 2,
    "min_epochs": 1,
    "learner": "tabular_mlp",
    "fields": ("training.lr", "tabular_mlp.dropout"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def digits(store: Path) -> Dataset:
    pixels, labels = load_digits(return_X_y=True)
    views = {"left": pixels[:160, :32].astype(np.float32), "right": pixels[:160, 32:].astype(np.float32)}
    return pc.create_dataset_from_arrays(
        "halves", views, labels[:160], task="classification", store=store, split={"test": 0.0}
    )


def _tune(digits: Dataset, store: Path, events: list[Event] | None = None, **tuning: Any) -> StudySummary:
    tell = (lambda event: None) if events is None else events.append
    return pc.tune(digits, store, tell, processes=False, tuning={**FEW, **tuning}, **SMALL)


def test_a_study_begins_with_the_run_itself_and_ends_in_a_file_that_trains(digits: Dataset, store: Path) -> None:
    events: list[Event] = []
    summary = _tune(digits, store, events)
    assert [trial.number for trial in summary.trials] == [0, 1, 2, 3] and summary.counts["running"] == 0
    default = summary.trials[0]
    assert default.enqueued == "default" and default.params["training.lr"] == RunConfig(dataset="x").training.lr
    assert default.values is not None and 0 < default.values[0] < 10 and default.epochs == len(default.curve) > 0
    assert list(default.curve) == sorted(default.curve, reverse=True), "best so far never rises"
    assert summary.best_trial is not None
    assert summary.best_trial.values == min(t.values for t in summary.trials if t.values)
    run = RunConfig.load(Path(summary.best_yaml))
    assert run.training.lr == summary.best_trial.params["training.lr"] and not run.tune
    assert read_summary(Path(summary.folder)) == summary
    assert Path(summary.report).exists() and "training.lr" in Path(summary.report).read_text()
    told = [event for event in events if event["event"] == "trial"]
    assert [e["state"] for e in told[:2]] == ["running", "running"] and told[0]["jobs"] == ["trial-0000"]
    assert told[-1]["told"] == told[-1]["of"] == 4 and told[-1]["best"] == summary.best


def test_the_same_call_again_trains_nothing_and_changes_nothing(digits: Dataset, store: Path) -> None:
    before = _tune(digits, store)
    journal = Path(before.folder) / JOURNAL
    trials = journal.read_bytes().count(b'"trial_id"')
    events: list[Event] = []
    after = _tune(digits, store, events)
    assert after.trials == before.trials and after.best == before.best
    assert not [event for event in events if event["event"] in ("trial", "started")]
    assert journal.read_bytes().count(b'"trial_id"') == trials
    more = _tune(digits, store, trials=6)
    assert more.folder == before.folder and more.trials[:4] == before.trials and len(more.trials) == 6


def test_every_objective_is_measured_on_rows_outside_the_bag(digits: Dataset, store: Path) -> None:
    names = ("loss", "score", "seconds", "size_mb", "robustness", "ece")
    summary = _tune(digits, store, objectives=names, trials=3, learner="fusion_net", fields=("training.lr",))
    assert summary.pruner == "none" and summary.directions[1] == "maximize" and summary.front
    for trial in summary.trials:
        found = dict(zip(names, trial.values or (), strict=True))
        assert 0 <= found["score"] <= 1 and 0 <= found["ece"] <= 1 and found["seconds"] > 0
        assert 1e-4 < found["size_mb"] < 100
        assert found["loss"] != found["robustness"]


def test_values_are_those_of_the_jobs_report(digits: Dataset, store: Path) -> None:
    summary = _tune(digits, store, objectives=("score", "loss"), trials=1)
    (trial,) = summary.trials
    reports = [f.read_text() for f in (store / "jobs").glob("*/report.json")]
    assert trial.values is not None
    assert any(f'"accuracy":{trial.values[0]}' in text.replace(" ", "") for text in reports)


def test_folds_are_judged_together(digits: Dataset, store: Path) -> None:
    summary = _tune(digits, store, folds=3, trials=2, pruner="wilcoxon")
    for trial in summary.trials:
        assert trial.state == "complete" and len(trial.folds) == 3 and trial.values is not None
        assert trial.values[0] == pytest.approx(np.mean(trial.folds), rel=0.05)  # folds differ in size by a row


def test_an_ensemble_is_tuned_and_its_combination_alone_trains_once(digits: Dataset, store: Path) -> None:
    events: list[Event] = []
    small = {**SMALL, "bags": {"num_bags": 3, "num_row_draws": 2}, "learners": {"include": ("linear",)}}
    summary = pc.tune(
        digits, store, events.append, processes=False, tuning={**FEW, "target": "combination", "fields": ()}, **small
    )
    assert summary.counts["complete"] == 4 and summary.learner == ""
    assert len({trial.values for trial in summary.trials}) > 1, "combining differently gives other answers"
    started = [event["job"] for event in events if event["event"] == "started"]
    assert len(started) == len({name.partition(": ")[2] for name in started}) > 0
    whole = pc.tune(
        digits,
        store,
        processes=False,
        tuning={**FEW, "target": "ensemble", "fields": ("bags.row_fraction", "linear"), "trials": 2},
        **small,
    )
    assert whole.counts["complete"] == 2 and whole.trials[0].values == summary.trials[0].values


def test_a_limit_nobody_keeps_leaves_no_best(digits: Dataset, store: Path) -> None:
    summary = _tune(digits, store, max_size_mb=1e-6, trials=2)
    assert summary.best is None and summary.best_yaml == "" and summary.front == ()
    assert all(trial.constraints["max_size_mb"] > 0 and not trial.feasible for trial in summary.trials)
    run = RunConfig.load(dataset=digits.ref, tuning={**FEW, "max_size_mb": 1e-6, "trials": 2}, **SMALL)
    with pytest.raises(GateError, match="none of 2 trials can be used"):
        tuned(run, dataset_ref(digits, store), store, lambda event: None, processes=False)


def test_slow_learners_break_a_limit_of_milliseconds(digits: Dataset, store: Path) -> None:
    summary = _tune(digits, store, max_ms_per_row=1e-9, max_seconds=1e9, trials=1)
    (trial,) = summary.trials
    assert trial.constraints["max_ms_per_row"] > 0 > trial.constraints["max_seconds"]


def test_a_study_begins_with_the_winners_of_earlier_ones(digits: Dataset, store: Path, tmp_path: Path) -> None:
    earlier = _tune(digits, tmp_path, trials=4)
    assert earlier.best_trial is not None
    best = min((t for t in earlier.trials if t.values), key=lambda t: t.values or ())
    later = pc.tune(digits, tmp_path, processes=False, seed=1, tuning={**FEW, "trials": 3}, **SMALL)
    assert later.folder != earlier.folder
    assert later.trials[1].enqueued == "warm start"
    wanted = best if best.number else sorted((t for t in earlier.trials if t.values), key=lambda t: t.values or ())[1]
    assert later.trials[1].params == wanted.params
    cold = pc.tune(digits, tmp_path, processes=False, seed=2, tuning={**FEW, "trials": 2, "warm_start": False}, **SMALL)
    assert [trial.enqueued for trial in cold.trials] == ["default", ""]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner": "image_cnn"}, "image_cnn"),
        ({"objectives": ("robustness",), "learner": "tabular_mlp", "modalities": ("left",)}, "there is only left"),
        ({"name": "a/b"}, "letters, digits"),
        ({"storage": "nowhere"}, "must be a database URL"),
        ({"storage": "nosuchdatabase://x/y"}, "cannot be opened"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(
    digits: Dataset, store: Path, settings: dict[str, Any], message: str
) -> None:
    modalities = settings.pop("modalities", ())
    run = RunConfig.load(dataset=digits.ref, modalities=modalities, tuning={**FEW, "fields": (), **settings}, **SMALL)
    with pytest.raises(ConfigError, match=message) as error:
        Tuner(run, dataset_ref(digits, store), store).tune(lambda *_: None)
    assert "\n" not in str(error.value)


def test_settings_that_are_not_searched_make_another_study(digits: Dataset, store: Path) -> None:
    ref = dataset_ref(digits, store)

    def folder(**given: Any) -> Path:
        return Tuner(RunConfig.load(dataset=digits.ref, **{**SMALL, "tuning": FEW, **given}), ref, store).folder

    own = folder()
    assert folder(tuning={**FEW, "trials": 99, "sampler": "random", "batch": 7}) == own
    assert folder(trackers=("jsonl",), budget={"workers": 1}) == own
    assert folder(executor="dask", cluster="tcp://host:8786") == own, "wherever its trials train"
    assert folder(keep_learners_of="models:/digits/1") == own
    assert folder(training={**SMALL["training"], "epochs": 5}) != own
    assert folder(seed=3) != own
    assert folder(tuning={**FEW, "fields": ("training.lr",)}) != own
    assert folder(tuning={**FEW, "name": "mine"}).name == "mine"


@pytest.mark.parametrize("mode", ["deterministic", "throughput"])
def test_learners_of_trials_are_looked_for_under_the_device_of_the_workers(
    digits: Dataset, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    asked: list[str] = []

    def gave(cohort: Cohort, outcome: Outcome, store: Path, device: str) -> list[JobReport]:
        asked.append(device)
        return [failed_report(job, str(outcome)) for job in cohort.jobs]

    monkeypatch.setattr(campaign, "reports_of", gave)
    monkeypatch.setattr(campaign, "device_kind", lambda: "cpu")
    run = RunConfig.load(dataset=digits.ref, tuning={**FEW, "mode": mode}, **SMALL)
    tuner = Tuner(run, dataset_ref(digits, store), tmp_path)
    tuner.tune(lambda cohort, limits, done: done(TransientError("killed")), device="cuda")
    assert set(asked) == {"cuda"}


@pytest.mark.parametrize("mode", ["deterministic", "throughput"])
def test_at_the_deadline_a_study_ends_and_what_is_open_is_gone_on_with(
    digits: Dataset, store: Path, tmp_path: Path, mode: str
) -> None:
    run = RunConfig.load(dataset=digits.ref, tuning={**FEW, "mode": mode}, **SMALL)
    ref, given = dataset_ref(digits, store), list[Limits]()

    def launch(cohort: Cohort, limits: Limits, done: Callable[[Outcome], None]) -> None:
        given.append(limits)
        done([skipped_report(job, "the time was over before it was done") for job in cohort.jobs])

    late = Tuner(run, ref, tmp_path).tune(launch, deadline=123.0)
    assert {limits.deadline for limits in given} == {123.0}
    assert [trial.state for trial in late.trials] == ["running"] * 2, "and no other was begun"
    assert late.stopped == "the time it may take is over" and late.best is None
    assert tuned_run(run, late) == run.model_copy(update={"tune": False})
    whole = _tune(digits, tmp_path, mode=mode)
    assert whole.folder == late.folder and [trial.number for trial in whole.trials] == [0, 1, 2, 3]
    assert [trial.params for trial in whole.trials[:2]] == [trial.params for trial in late.trials]


def test_a_database_keeps_a_study_as_well(digits: Dataset, store: Path, tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/studies.db"
    journal, database = _tune(digits, tmp_path / "a"), _tune(digits, tmp_path / "a", storage=place, name="other")
    assert [(t.state, t.params, t.values) for t in database.trials[:1]] == [
        (t.state, t.params, t.values) for t in journal.trials[:1]
    ]
    assert database.storage == place and not (Path(database.folder) / JOURNAL).exists()
