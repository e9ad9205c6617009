import numpy as np
import pytest
from quality_world import World, a_clean_world, found

from training_core.data.quality.power import PowerJudge, halves_of
from training_core.schema import TaskSpec

KINDS = ("classification", "multilabel", "regression")


def a_rating_world(num_rows: int = 3000, seed: int = 0) -> tuple[World, np.ndarray]:
    """Grades from 1 to 5, most of them 5, a table that hardly tells them, and who recommends what was graded."""
    draws = np.random.default_rng(seed)
    rating = draws.choice(5, num_rows, p=[0.04, 0.07, 0.12, 0.21, 0.56]) + 1
    recommended = (rating >= 4) ^ (draws.random(num_rows) < 0.05)
    world = World(
        TaskSpec.regression(("rating",)),
        rating[:, None].astype(float),
        tables={
            "facts": {
                "age": draws.integers(18, 80, num_rows),
                "division": np.asarray(["general", "petite", "home"])[draws.integers(0, 3, num_rows)].tolist(),
                "department": [f"d{i}" for i in draws.integers(0, 6, num_rows)],
                "weak": draws.normal(size=num_rows) + 0.1 * rating,
            }
        },
    )
    return world, recommended.astype(int)


def power(kind, target: np.ndarray, values: np.ndarray) -> float:
    judge = PowerJudge(kind, target, halves_of(np.arange(len(target), dtype=np.uint64)))
    return (judge.of_categories if values.dtype == np.uint64 else judge.of_numbers)(values).value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_honest_features_are_no_leaks(kind, seed):
    assert not found(a_clean_world(kind, seed=seed).report(), "label_leakage")


@pytest.mark.parametrize("seed", range(3))
def test_an_outcome_among_weak_features_stands_out(seed):
    world, recommended = a_rating_world(seed=seed)
    assert not found(world.report(), "label_leakage")
    (leak,) = found(world.with_column("recommended", recommended).report(), "label_leakage")
    assert (leak.subject, leak.severity) == ("facts.recommended", "warning")
    assert leak.value == pytest.approx(0.6, abs=0.15)


def test_two_outcomes_that_say_the_same_do_not_hide_each_other():
    world, recommended = a_rating_world()
    report = world.with_column("recommended", recommended).with_column("kept", recommended * 2.5).report()
    assert {f.subject for f in found(report, "label_leakage")} == {"facts.recommended", "facts.kept"}


def test_an_outcome_as_a_category_stands_out():
    world, recommended = a_rating_world()
    report = world.with_column("recommended", np.where(recommended == 1, "yes", "no").tolist()).report()
    assert [f.subject for f in found(report, "label_leakage")] == ["facts.recommended"]


def test_with_nothing_to_compare_with_nothing_stands_out():
    world, recommended = a_rating_world()
    alone = world.having(tables={"facts": {"recommended": recommended, "age": world.tables["facts"]["age"]}})
    assert not found(alone.report(), "label_leakage")


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_the_target_is_an_error(kind):
    world = a_clean_world(kind)
    if kind == "classification":
        copy = np.asarray(world.task.classes)[world.target].tolist()
    else:
        copy = world.target[:, 0].astype(float)
    (leak,) = found(world.with_column("outcome", copy).report(), "label_leakage")
    assert (leak.severity, leak.subject) == ("error", "facts.outcome")
    assert "copy" in leak.message


def test_a_copy_of_classes_that_are_numbers_is_an_error():
    world = a_clean_world()
    numbered = world.having(task=TaskSpec.classification(("3", "5", "7")))
    (leak,) = found(numbered.with_column("outcome", np.asarray([3, 5, 7])[world.target]).report(), "label_leakage")
    assert "copy" in leak.message


def test_a_copy_of_the_target_among_the_features_of_a_vector_is_an_error():
    world = a_clean_world("regression")
    sensor = world.arrays["sensor"].copy()
    sensor[:, 7] = world.target[:, 0]
    (leak,) = found(world.having(arrays={"sensor": sensor}).report(), "label_leakage")
    assert (leak.severity, leak.subject) == ("error", "sensor[7]")


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_that_predicts_the_target_almost_perfectly_is_an_error(kind):
    world = a_clean_world(kind, num_rows=1500)
    flat = world.target.reshape(len(world), -1)[:, 0]
    noise = np.random.default_rng(1).normal(size=len(world))
    hint = 10.0 * flat + 0.1 * noise
    (leak,) = found(world.with_column("hint", hint).report(), "label_leakage")
    assert (leak.severity, leak.subject) == ("error", "facts.hint")
    assert leak.value is not None
    assert leak.value >= 0.95


def test_a_rare_class_that_is_given_away_is_seen():
    world = a_clean_world(num_rows=2000)
    rare = (np.random.default_rng(0).random(2000) < 0.05).astype(int)
    world = world.having(task=TaskSpec.classification(("no", "yes")), target=rare)
    assert found(world.with_column("refund", rare * 3).report(), "label_leakage")[0].severity == "error"


def test_many_leaking_features_of_a_vector_are_one_finding():
    world = a_clean_world("regression", num_rows=1500)
    noise = 0.01 * np.random.default_rng(0).normal(size=(1500, 20))
    leaking = (world.target + noise).astype(np.float32)
    (leak,) = found(world.having(arrays={"sensor": leaking}).report(), "label_leakage")
    assert (leak.subject, leak.severity) == ("sensor", "error")
    assert "19 other" in leak.message


def test_a_subject_known_by_its_group_is_no_leak_when_groups_are_kept_apart():
    draws = np.random.default_rng(0)
    patient = draws.integers(0, 60, 1200)
    ill = (patient % 2).astype(int)
    world = a_clean_world(num_rows=1200).having(task=TaskSpec.classification(("no", "yes")), target=ill)
    world = world.with_column("patient", [f"p{i}" for i in patient])
    assert found(world.report(), "label_leakage")
    names = np.asarray([f"p{i}" for i in patient], object)
    split = np.where(patient % 4 == 3, "test", "train").astype(object)
    assert not found(world.report(groups=names, split=split), "label_leakage")


def test_twenty_rows_are_too_few_to_accuse_a_feature():
    world = a_clean_world(num_rows=40)
    assert not found(world.report(), "label_leakage")


@pytest.mark.parametrize("kind", KINDS)
def test_noise_has_no_power_and_the_truth_has_all_of_it(kind):
    draws = np.random.default_rng(0)
    for num_rows in (200, 5000):
        if kind == "classification":
            target = draws.integers(0, 4, num_rows)
        elif kind == "multilabel":
            target = (draws.random((num_rows, 3)) < 0.4).astype(np.float32)
        else:
            target = np.exp(2 * draws.normal(size=(num_rows, 1)))  # a long tail
        truth = target.reshape(num_rows, -1)[:, 0].astype(float)
        assert power(kind, target, draws.normal(size=num_rows)) < 0.12
        assert power(kind, target, draws.integers(0, 2**60, num_rows).astype(np.uint64)) < 0.05
        assert power(kind, target, truth) > (0.95 if kind == "regression" else 0.999)


def test_the_power_of_a_linear_feature_is_its_r2():
    draws = np.random.default_rng(0)
    x = draws.normal(size=20_000)
    target = (x + draws.normal(size=20_000))[:, None]
    assert power("regression", target, x) == pytest.approx(0.5, abs=0.03)


def test_a_large_offset_of_the_target_changes_nothing():
    draws = np.random.default_rng(0)
    x = draws.normal(size=5000)
    target = (x + draws.normal(size=5000))[:, None]
    assert power("regression", target + 1e9, x) == pytest.approx(power("regression", target, x), abs=1e-4)


def test_missing_cells_that_tell_the_target_have_power():
    target = np.repeat([0, 1], 300)
    assert power("classification", target, np.where(target == 1, np.nan, 1.0)) == 1.0


def test_the_findings_are_the_same_however_rows_are_cut():
    world, recommended = a_rating_world()
    world = world.with_column("recommended", recommended)
    assert [f.code for f in world.report(1000).findings] == [f.code for f in world.report(77).findings]
    assert found(world.report(1000), "label_leakage") == found(world.report(77), "label_leakage")
