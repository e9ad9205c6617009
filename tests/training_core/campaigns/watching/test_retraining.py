import shutil
from pathlib import Path

import pytest
from streamed_world import WEEK, frame, more, quick_run, write

from training_core.artifacts import open_published
from training_core.campaigns.bagging import open_dataset, resolve_dataset
from training_core.campaigns.kept_learners import keep_learners
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.watching.monitor import MonitorConfig, monitor
from training_core.campaigns.watching.retraining import (
    RetrainConfig,
    RetrainPlan,
    already_running,
    fail_retraining,
    in_flight,
    plan_retraining,
)
from training_core.campaigns.watching.state import WatchFolder, WatchState
from training_core.campaigns.watching.trigger import RetrainRecord
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.store import DatasetStore
from training_core.jobs import read_out_of_bag
from training_core.selection.ensemble import Ensemble

START = 4 * WEEK
DAY = 86_400.0


def plan(model: str, store: Path, now: float = 1000 * DAY, **given: object) -> RetrainPlan:
    """By default nothing is tried to see how far back to learn from, which takes a second."""
    return plan_retraining(RetrainConfig.model_validate({"model": model, "recent_rows": 10**6, **given}), store, now)


def past(store: Path, *records: RetrainRecord) -> None:
    WatchFolder(store, "stream").write(WatchState(retrains=records))


def test_nothing_new_is_refused_unless_it_is_forced(model: str, store: Path):
    refused = plan(model, store)
    assert "was trained on already" in refused.refusal
    assert refused.run is None
    assert WatchFolder(store, "stream").state().retrains == ()
    forced = plan(model, store, force=True)
    assert forced.run is not None
    assert forced.run.dataset == forced.latest
    assert forced.run.keep_learners_of == ""


def test_new_rows_are_trained_on_with_the_champions_seed_and_learners(place: Path, model: str, store: Path):
    latest = more(place, frame(START, 2 * WEEK))
    found = plan(model, store)
    assert found.refusal == ""
    assert (found.num_new, found.num_hold_out, found.num_training) == (300, 90, 810)
    assert found.run is not None
    assert found.latest == latest.ref
    assert found.run.dataset != latest.ref
    assert found.run.seed == Ensemble.load(Path(model)).manifest.seed
    assert found.run.keep_learners_of == model
    assert WatchFolder(store, "stream").state().retrains[-1].outcome == "started"


def test_too_few_rows_to_judge_are_refused_and_not_remembered(place: Path, model: str, store: Path):
    more(place, frame(START, 100))
    assert "only 30 rows would judge" in plan(model, store).refusal
    assert WatchFolder(store, "stream").state().retrains == ()


def test_the_cool_down_holds_back_and_force_does_not_wait(place: Path, model: str, store: Path):
    more(place, frame(START, 2 * WEEK))
    past(store, RetrainRecord(time=995 * DAY, reason="drift", dataset="stream@0", outcome="promoted"))
    assert "7 days between" in plan(model, store).refusal
    assert plan(model, store, now=1002 * DAY).refusal == ""
    past(store, RetrainRecord(time=995 * DAY, reason="drift", dataset="stream@0", outcome="promoted"))
    assert plan(model, store, force=True).refusal == ""


def test_rows_that_did_not_help_are_not_tried_again(place: Path, model: str, store: Path):
    latest = more(place, frame(START, 2 * WEEK))
    past(store, RetrainRecord(time=0, reason="drift", dataset=latest.ref, outcome="refused"))
    assert "there have to be new rows" in plan(model, store).refusal


def test_one_that_was_killed_is_planned_the_same_again_and_one_that_failed_holds_back_nothing(
    place: Path, model: str, store: Path
):
    more(place, frame(START, 2 * WEEK))
    first, second = plan(model, store), plan(model, store)
    assert first.run == second.run
    assert len(WatchFolder(store, "stream").state().retrains) == 1
    fail_retraining(RetrainConfig(model=model), first, store, RuntimeError("no power"))
    record = WatchFolder(store, "stream").state().retrains[-1]
    assert (record.outcome, record.why) == ("failed", "RuntimeError: no power")
    assert plan(model, store).refusal == ""


def test_of_the_rows_since_a_drift_some_train_and_the_newest_judge(place: Path, model: str, store: Path):
    for week, turned in enumerate([False, False, True, True]):
        more(place, frame(START + week * WEEK, WEEK, turned=turned))
        last = monitor(MonitorConfig(model=model), store)
    assert last.retrain.retrain
    found = plan(model, store, window=last.window)
    assert (found.num_new, found.num_hold_out) == (4 * WEEK, round(0.3 * 2 * WEEK))


def test_another_data_set_is_refused_since_it_names_another_model(place: Path, model: str, store: Path):
    source = write(place / "other", frame(START, 2 * WEEK))
    source.write_text(source.read_text().replace("name: stream", "name: river"))
    river = prepare_dataset(source, DatasetStore(store / "datasets"))
    found = plan(model, store, dataset="river", force=True)
    assert f"what is trained on {river.ref} would be a version of 'river'" in found.refusal
    assert found.run is None


def test_nothing_is_trained_to_take_over_where_nobody_knows_what_the_champion_has_seen(
    place: Path, model: str, store: Path
):
    more(place, frame(START, 2 * WEEK))
    shutil.rmtree(DatasetStore(store / "datasets").open(Ensemble.load(Path(model)).manifest.dataset).path)
    assert "nobody can say which rows are fresh" in plan(model, store).refusal
    assert WatchFolder(store, "stream").state().retrains == ()
    assert plan(model, store, promote="never").run is not None


@pytest.fixture
def retrained(place: Path, model: str, store: Path) -> Path:
    """What was trained again on two weeks more, by a process that was killed before it could say so."""
    for week in range(2):
        more(place, frame(START + week * WEEK, WEEK))
    found = plan(model, store)
    assert found.run is not None
    return fit_ensemble(quick_run(found.run.dataset), store, processes=False).folder


def test_rows_that_trained_the_champion_judge_nobody(retrained: Path, store: Path):
    """It was given what the data set still calls test rows; forced again without new rows, few are left."""
    found = plan(str(retrained), store, force=True)
    assert "rows that would judge are fresh to the champion" in found.refusal
    assert 0 < found.num_hold_out < 50
    assert plan(str(retrained), store, force=True, promote="ask").run is not None


def test_one_that_was_killed_after_it_took_over_is_told_as_a_promotion(place: Path, retrained: Path, store: Path):
    assert WatchFolder(store, "stream").state().retrains[-1].outcome == "started"
    assert "was trained on already" in plan(str(retrained), store, now=1001 * DAY).refusal
    record = WatchFolder(store, "stream").state().retrains[-1]
    assert (record.outcome, record.version, record.time) == ("promoted", str(retrained), 1000 * DAY)
    more(place, frame(START + 2 * WEEK, 2 * WEEK))
    assert "7 days between" in plan(str(retrained), store, now=1001 * DAY).refusal


def test_one_that_was_killed_before_that_is_not(place: Path, model: str, retrained: Path, store: Path):
    assert plan(model, store).run is not None
    assert WatchFolder(store, "stream").state().retrains[-1].outcome == "started"


def test_after_a_change_of_what_rows_mean_the_newest_train(place: Path, model: str, store: Path):
    looks = []
    for week, turned in enumerate([False, True, True, True]):
        more(place, frame(START + week * WEEK, WEEK, turned=turned))
        looks.append(monitor(MonitorConfig(model=model), store))
    found = plan(model, store, window=looks[-1].window, recent_rows=0)
    judging = round(0.3 * 3 * WEEK)
    assert (found.num_training, found.num_hold_out) == (3 * WEEK - judging, judging)
    assert found.trains_on.startswith(f"the newest {3 * WEEK - judging} of {8 * WEEK - judging:,} rows train")
    everything = plan(model, store, window=looks[-1].window)
    assert everything.num_training == 8 * WEEK - judging
    assert "as `recent_rows` says" in everything.trains_on


def test_without_one_all_rows_train(place: Path, model: str, store: Path):
    for week in range(4):
        more(place, frame(START + week * WEEK, WEEK))
    found = plan(model, store, recent_rows=0)
    assert found.num_training == 8 * WEEK - round(0.3 * 4 * WEEK)
    assert found.trains_on.startswith("all 1,020 rows train, since no shorter past is shown to be better")


def test_a_second_one_at_the_same_time_is_told_so(model: str, store: Path):
    with in_flight(model, store) as first:
        assert first
        with in_flight(model, store) as second:
            assert not second
            assert "another retraining" in already_running(RetrainConfig(model=model), store).refusal
    with in_flight(model, store) as third:
        assert third


@pytest.fixture
def changed(place: Path, model: str, store: Path) -> RetrainPlan:
    """What is planned after the answers turned round."""
    more(place, frame(START, 2 * WEEK, turned=True))
    return plan(model, store)


def test_kept_learners_are_judged_on_rows_they_have_not_seen(changed: RetrainPlan, model: str, store: Path):
    assert changed.run is not None
    ref = resolve_dataset(changed.run.dataset, store)
    dataset = open_dataset(ref)
    reports = keep_learners(changed.run, ref, store)
    champion = Ensemble.load(Path(model))
    assert [report.name.partition("@")[0] for report in reports] == list(champion.kept)
    assert all(report.status == "reused" and report.artifact is not None for report in reports)
    seen = open_dataset(resolve_dataset(champion.manifest.dataset, store))
    trained_on = set(seen.ids(seen.rows("train")))
    for report in reports:
        assert report.artifact is not None
        rows, _ = read_out_of_bag(report.artifact)
        assert len(rows) == START * 0.25 + 2 * WEEK - 90
        assert not trained_on & set(dataset.ids(rows))
        assert dataset.split(rows).tolist() == ["train"] * len(rows)
    again = keep_learners(changed.run, ref, store)
    assert again == reports, "asked again nothing is made anew"


def test_kept_learners_are_members_beside_those_that_are_trained(changed: RetrainPlan, model: str, store: Path):
    assert changed.run is not None
    run = quick_run(changed.run.dataset).model_copy(update={"keep_learners_of": model})
    ensemble = fit_ensemble(run, store, processes=False)
    weights = ensemble.weights()
    kept = {name: weight for name, weight in weights.items() if "@" in name}
    assert kept, "they are members"
    assert len(weights) > len(kept), "beside those that were trained now"
    assert ensemble.leaderboard() is not None


def test_learners_of_other_samples_are_not_kept(place: Path, model: str, store: Path):
    rows = frame(START, 2 * WEEK)
    rows.loc[rows.index[0], "shop"] = "west"
    more(place, rows)
    found = plan(model, store)
    assert found.run is not None
    assert keep_learners(found.run, resolve_dataset(found.run.dataset, store), store) == ()


def test_without_a_model_to_keep_learners_of_there_are_none(model: str, store: Path):
    run = quick_run(Ensemble.load(Path(model)).manifest.dataset)
    assert keep_learners(run, resolve_dataset(run.dataset, store), store) == ()
    same = run.model_copy(update={"keep_learners_of": model})
    assert keep_learners(same, resolve_dataset(run.dataset, store), store) == (), "it has seen every row"
    assert open_published(Path(model)).path == Path(model)
