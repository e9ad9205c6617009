from dataclasses import replace

import numpy as np
import pytest
from monitored_world import answer, held, table_of, world

from training_core.errors import DataError
from training_core.monitoring import DriftConfig, DriftWatch, Window, calibrate, compare, make_profile, reference_for

ROWS = 200


def window(profile, mean, seed, label="", season=""):
    values = np.random.default_rng(seed).normal(size=(ROWS, 2)) + np.array([mean, 0.0])
    return Window(label=label, season=season, tally=profile.measure(table_of(values)))


@pytest.fixture(scope="module")
def profile():
    return make_profile(table_of(np.random.default_rng(0).normal(size=(4000, 2))), "two")


def test_a_rolling_reference_follows_and_the_training_rows_do_not(profile):
    history = [window(profile, 2.0, seed) for seed in range(4)]
    now = window(profile, 2.0, 99).tally
    for kind, verdict in (("training", "drift"), ("rolling", "ok")):
        config = DriftConfig(reference=kind, num_windows=3)
        reference = reference_for(profile, history, config)
        report = compare(reference, now, config)
        assert (report.verdict, report.reference) == (verdict, kind)
    assert reference.tally.num_rows == 3 * ROWS


def test_a_seasonal_reference_is_of_the_season(profile):
    history = [window(profile, 2.0 * (k % 2), k, season="summer" if k % 2 else "winter") for k in range(8)]
    config = DriftConfig(reference="seasonal")
    summer = reference_for(profile, history, config, "summer")
    assert compare(summer, window(profile, 2.0, 50).tally, config).verdict == "ok"
    assert compare(summer, window(profile, 0.0, 50).tally, config).verdict == "drift"
    assert reference_for(profile, history, config, "autumn") is profile  # nothing is known of it


def test_before_there_are_windows_the_profile_is_the_reference(profile):
    assert reference_for(profile, [], DriftConfig(reference="rolling")) is profile


def test_a_moving_reference_does_not_forget_how_well_the_model_was():
    def rows(seed, wrong):
        samples = world(300, seed)
        flipped = np.random.default_rng(seed).random(300) < wrong
        return held(replace(samples, target=np.where(flipped, 1 - samples.target, samples.target)))

    made = make_profile(rows(0, 0.0), "world", answer)
    config = DriftConfig(reference="rolling", num_windows=2)
    history = [Window(label=str(k), tally=made.measure(rows(k, 0.04 * k), answer)) for k in range(1, 8)]
    report = compare(reference_for(made, history[:-1], config), history[-1].tally, config)
    assert report.check("performance/accuracy").verdict == "drift"
    assert report.check("performance/accuracy").reference_value == made.tally.performance.score


def test_what_is_usual_between_windows_does_not_warn_and_more_does(profile):
    config = DriftConfig()
    swings = [window(profile, 0.8 * np.sin(k), k) for k in range(12)]
    plain = [compare(profile, w.tally, config).verdict for w in swings]
    assert plain.count("ok") < 6
    known = calibrate(profile, swings, config)
    later = [window(profile, 0.7 * np.sin(k), 100 + k) for k in range(12)]
    assert all(compare(known, w.tally, config).verdict == "ok" for w in later)
    report = compare(known, window(profile, 2.5, 7).tally, config)
    check = report.check("input/facts.x0")
    assert check.verdict == "drift"
    assert check.usual > 1
    assert compare(known, window(profile, 0.0, 7).tally, config).check("input/facts.x1").usual < 1


@pytest.mark.parametrize("kind", ["rolling", "seasonal"])
def test_what_is_usual_depends_on_the_reference(profile, kind):
    seasons = [window(profile, 1.5 * (k % 2), k, season=str(k % 2)) for k in range(8)]
    config = DriftConfig(reference=kind, num_windows=1)
    usual = calibrate(profile, seasons, config).usual["input/facts.x0"]
    assert usual < 1 if kind == "seasonal" else usual > 2  # windows side by side differ, those of a season do not


def test_a_calibrated_profile_reads_back(profile, tmp_path):
    known = calibrate(profile, [window(profile, 0.0, k) for k in range(3)], DriftConfig())
    known.save(tmp_path)
    assert type(known).load(tmp_path).usual == known.usual


def test_too_few_or_foreign_windows_are_refused(profile):
    with pytest.raises(DataError, match="at least 3"):
        calibrate(profile, [window(profile, 0.0, 0)] * 2, DriftConfig())
    other = make_profile(table_of(np.random.default_rng(5).normal(size=(300, 2))), "other")
    foreign = [window(other, 0.0, k) for k in range(3)]
    with pytest.raises(DataError, match="another profile"):
        reference_for(profile, foreign, DriftConfig(reference="rolling"))
    with pytest.raises(DataError, match="another profile"):
        calibrate(profile, foreign, DriftConfig())


def seen(profile, watch, means, config=None, rows=ROWS):
    for place, mean in enumerate(means):
        values = np.random.default_rng(place).normal(size=(rows, 2)) + np.array([mean, 0.0])
        label = f"{watch.num_windows}/{place}/{mean}/{rows}"
        watch = watch.seen(compare(profile, table_of(values), config, label=label))
    return watch


def test_one_window_is_not_believed_two_are(profile):
    watch = DriftWatch()
    assert watch.verdict == "insufficient_data"
    watch = seen(profile, watch, [0.0, 2.0])
    assert watch.verdict == "ok"
    watch = seen(profile, watch, [2.0])
    assert (watch.verdict, watch.confirmed) == ("drift", {"input/facts.x0": "drift"})
    assert seen(profile, watch, [0.0]).verdict == "ok"
    assert DriftWatch.model_validate_json(watch.to_json()) == watch


def test_a_streak_of_warnings_and_drift_is_a_warning(profile):
    assert seen(profile, DriftWatch(), [0.45, 2.0]).verdict == "warning"
    assert seen(profile, DriftWatch(), [0.45, 2.0, 2.0]).verdict == "drift"


def test_a_window_with_few_rows_changes_nothing(profile):
    watch = seen(profile, DriftWatch(), [2.0])
    assert seen(profile, watch, [0.0], rows=20) == watch
    assert seen(profile, seen(profile, watch, [0.0], rows=20), [2.0]).verdict == "drift"


def test_the_same_window_does_not_count_twice(profile):
    report = compare(profile, window(profile, 2.0, 0).tally, label="1 May")
    once = DriftWatch().seen(report)
    assert once.seen(report) == once
    assert once.verdict == "ok"


def test_how_many_windows_it_takes_can_be_set(profile):
    assert seen(profile, DriftWatch(), [2.0], DriftConfig(min_consecutive=1)).verdict == "drift"
    assert seen(profile, DriftWatch(), [2.0] * 3, DriftConfig(min_consecutive=4)).verdict == "ok"
