import numpy as np
import pytest
from quality_world import SENTENCE, World, a_clean_world, codes, found, without_nan

from training_core.data.quality import Finding, QualityReport, RowProblem
from training_core.errors import DataError
from training_core.schema import TaskSpec


def only(report: QualityReport, code: str) -> Finding:
    (finding,) = found(report, code)
    return finding


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("num_rows", [60, 600, 3000])
@pytest.mark.parametrize("seed", range(3))
def test_clean_data_raise_no_alarm(kind, num_rows, seed):
    assert a_clean_world(kind, num_rows, seed).report().findings == ()


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (np.full(600, 3), "constant_column"),
        ([None] * 600, "empty_column"),
        (["x"] * 600, "constant_column"),
        ([None if i % 5 else float(i) for i in range(600)], "missing_cells"),
        (np.arange(600) + 10_000, "id_like"),
        (np.random.default_rng(0).permutation(600), "id_like"),
        ([f"code {i}" for i in range(600)], "id_like"),
        ([f"id-{i}" for i in range(600)], "id_as_input"),
        (np.r_[np.random.default_rng(0).normal(size=599), 1e6], "outliers"),
        (np.r_[np.random.default_rng(0).normal(50, 5, 580), np.full(20, -999)], "sentinel_value"),
    ],
)
def test_a_flawed_column_is_named(cells, code):
    report = a_clean_world().with_column("flawed", without_nan(cells)).report()
    assert only(report, code).subject == "facts.flawed"
    assert codes(report) == {code}


@pytest.mark.parametrize(
    "cells",
    [
        np.random.default_rng(0).integers(0, 10**9, 600),  # amounts: nearly unique, but no running number
        np.random.default_rng(0).poisson(0.02, 600),  # rare counts
        np.exp(np.random.default_rng(0).normal(size=600)),
        np.random.default_rng(0).standard_t(4, 600),
        np.random.default_rng(0).random(600) < 0.01,
        np.r_[np.full(300, -1), np.random.default_rng(0).integers(0, 5, 300)],
        [f"town {i % 150}" for i in range(600)],
    ],
)
def test_an_unusual_column_is_not_flawed(cells):
    assert a_clean_world().with_column("odd", without_nan(cells)).report().findings == ()


def test_missing_cells_that_go_with_the_target_are_named():
    world = a_clean_world("classification")
    cells = [None if label == 2 else float(i % 7) for i, label in enumerate(world.target)]
    assert only(world.with_column("c", cells).report(), "missing_related_to_target").subject == "facts.c"


def test_a_modality_that_is_missing_with_the_target_is_named_once():
    world = a_clean_world("regression", 1000)
    absent = world.target[:, 0] > 1
    report = world.having(absent={"photo": absent}).report()
    assert only(report, "missing_related_to_target").subject == "photo"


def test_a_modality_that_is_mostly_missing_is_named():
    absent = np.arange(600) % 4 != 0
    report = a_clean_world().having(absent={"photo": absent}).report(split=split_at(600, 450))
    assert only(report, "often_missing").subject == "photo"
    assert report.availability["photo"]["train"] == pytest.approx(0.25, abs=0.01)


def test_gaps_in_one_split_alone_are_named():
    report = a_clean_world().having(absent={"photo": np.arange(600) >= 450}).report(split=split_at(600, 450))
    assert only(report, "unequal_availability").subject == "photo"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda v: np.where(np.arange(600)[:, None] % 10 == 0, 0.0, v), "blank_rows"),
        (lambda v: np.hstack([v[:, :-1], np.ones((600, 1))]), "dead_features"),
        (lambda v: v + np.where(np.arange(600)[:, None] == 5, 1e6, 0) * (np.arange(20) == 3), "outliers"),
        (lambda v: np.where((np.arange(600)[:, None] == 5) & (np.arange(20) == 3), np.nan, v), "non_finite"),
    ],
)
def test_a_flawed_vector_is_named(change, code):
    world = a_clean_world()
    arrays = {**world.arrays, "sensor": change(world.arrays["sensor"]).astype(np.float32)}
    report = world.having(arrays=arrays).report()
    assert only(report, code).subject == "sensor"
    assert codes(report) == {code}


def test_dark_borders_of_pictures_are_no_flaw_but_blank_pictures_are():
    world = a_clean_world()
    photo = world.arrays["photo"].copy()
    photo[..., 0] = 0
    assert world.having(arrays={**world.arrays, "photo": photo}).report().findings == ()
    photo[::10] = 0
    finding = only(world.having(arrays={**world.arrays, "photo": photo}).report(), "blank_rows")
    assert (finding.value, finding.rows[:2]) == (0.1, ("id-0", "id-10"))


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (["red", "blue", "green"] * 200, "short_texts"),
        ([f"{SENTENCE} {i}" if i % 5 else " " for i in range(600)], "blank_texts"),
        ([f"{SENTENCE} {i}" if i else f"word{i} " * 9000 for i in range(600)], "long_texts"),
        ([f"{SENTENCE} {i % 100}" for i in range(600)], "repeated_texts"),
        ([f"{SENTENCE} {i}" if i % 4 else f"das ist nicht gut für mich {i}" for i in range(600)], "mixed_languages"),
        ([f"{SENTENCE} {i}" if i % 4 else f"платье не подошло {i}" for i in range(600)], "mixed_languages"),
        ([None] * 600, "empty_column"),
    ],
)
def test_flawed_texts_are_named(texts, code):
    world = a_clean_world()
    report = world.having(texts={"review": {"text": texts}}).report()
    assert only(report, code).subject == "review.text"


def test_classes_that_are_rare_unbalanced_or_in_one_split_alone_are_named():
    target = np.r_[np.zeros(540), np.ones(50), [2] * 4, [3] * 6].astype(int)
    world = a_clean_world().having(task=TaskSpec.classification("abcd"), target=target)
    split = split_at(600, 594)
    split[:100] = "test"
    report = world.report(split=split)
    assert "'d'" in only(report, "class_not_in_train").message
    assert "'b', 'c'" in only(report, "class_not_in_test").message
    assert "'c'" in only(report, "rare_class").message
    assert only(report, "class_imbalance").value == 440 / 4


def test_labels_that_never_change_or_hardly_ever_are_named():
    target = np.zeros((600, 4), np.float32)
    target[::2, 0] = 1
    target[:, 1] = 1
    target[:3, 2] = 1
    report = a_clean_world("multilabel").having(task=TaskSpec.multilabel("abcd"), target=target).report()
    assert "'d'" in only(report, "label_never_on").message
    assert "'b'" in only(report, "label_always_on").message
    assert "'c'" in only(report, "rare_label").message


@pytest.mark.parametrize(
    ("target", "code", "severity"),
    [
        (np.full(600, 2.0), "constant_target", "error"),
        (np.exp(3 * np.random.default_rng(0).normal(size=600)), "heavy_tailed_target", "warning"),
        (np.where(np.arange(600) % 3, 0, np.random.default_rng(0).random(600)), "repeated_target", "warning"),
    ],
)
def test_a_flawed_target_is_named(target, code, severity):
    report = a_clean_world("regression").having(target=target[:, None]).report()
    assert (only(report, code).severity, only(report, code).subject) == (severity, "target")


def test_one_of_several_targets_is_named():
    target = np.column_stack([np.random.default_rng(0).normal(size=600), np.full(600, 2.0)])
    world = a_clean_world("regression").having(target=target, task=TaskSpec.regression(("good", "bad")))
    assert only(world.report(), "constant_target").subject == "target.bad"


def test_groups_in_two_splits_are_an_error():
    groups = np.asarray([f"g{i % 50}" for i in range(600)], object)
    split = np.where(np.arange(600) % 50 < 10, "test", "train").astype(object)
    assert "group_overlap" not in codes(a_clean_world().report(groups=groups, split=split))
    split[11] = "test"
    finding = only(a_clean_world().report(groups=groups, split=split), "group_overlap")
    assert (finding.severity, finding.rows) == ("error", ("id-11",))


@pytest.mark.parametrize("dates", [False, True])
def test_a_test_that_is_earlier_than_training_is_named(dates):
    times = np.arange(600.0)
    if dates:
        times = np.datetime64("2026-01-01") + np.arange(600).astype("timedelta64[h]")
    world, later = a_clean_world(), split_at(600, 450)
    assert "time_overlap" not in codes(world.report(times=times, split=later))
    assert only(world.report(times=times[::-1], split=later), "time_overlap").severity == "error"
    later[440] = "test"
    finding = only(world.report(times=times, split=later), "time_overlap")
    assert (finding.severity, finding.rows) == ("warning", ("id-440",))


def test_a_group_in_the_test_keeps_its_history():
    groups = np.asarray(["late" if i >= 500 or i % 100 == 7 else f"g{i}" for i in range(600)], object)
    split = np.where(groups == "late", "test", "train").astype(object)
    assert "time_overlap" not in codes(a_clean_world().report(times=np.arange(600.0), groups=groups, split=split))


def test_rows_that_were_set_aside_are_never_silent():
    split = split_at(600, 450)
    split[:40] = "quarantined"
    problem = RowProblem("missing_target", np.arange(30), "the target is empty")
    report = a_clean_world().report(split=split, rejected=[problem])
    finding = only(report, "missing_target")
    assert (finding.severity, finding.subject, len(finding.rows)) == ("warning", "rows", 10)
    assert "30 rows (5.0%)" in finding.message
    assert only(report, "set_aside").rows[0] == "id-30"
    assert report.splits["quarantined"] == 40


def test_many_rows_set_aside_are_an_error():
    problem = RowProblem("missing_target", np.arange(300), "the target is empty")
    assert only(a_clean_world().report(rejected=[problem]), "missing_target").severity == "error"


def test_problems_of_one_kind_are_one_finding():
    problems = [RowProblem("not_a_number", np.arange(at, at + 5), f"'x{at}' is no number") for at in (0, 3, 50)]
    finding = only(a_clean_world().report(rejected=problems), "not_a_number")
    assert "13 rows" in finding.message
    assert "'x0' is no number (and 2 more such problems)" in finding.message


def test_cells_of_rows_that_lack_the_modality_count_nowhere():
    cells = np.r_[np.full(5, 1e9), np.random.default_rng(0).normal(size=595)]
    world = a_clean_world().with_column("c", cells).having(absent={"facts": np.arange(600) < 5})
    assert world.report().findings == ()
    facts = next(m for m in world.report().profile.modalities if m.name == "facts")
    assert facts.columns[-1].count == facts.available == 595


def test_rows_of_no_sample_are_named_per_file():
    report = a_clean_world().report(unmatched={"photos.npz": 200, "facts.csv": 0})
    assert (only(report, "unmatched_rows").subject, only(report, "unmatched_rows").value) == ("photos.npz", 0.25)


def test_an_accepted_finding_is_kept_but_no_longer_counts():
    world = a_clean_world().with_column("a", np.full(600, 1)).with_column("b", np.full(600, 1))
    assert len(world.report().warnings) == 2
    one = world.report(accept=("constant_column:facts.a", "id_like"))
    assert [f.subject for f in one.warnings] == ["facts.b"]
    assert [f.subject for f in one.accepted] == ["facts.a"]
    assert one.unused_accept == ("id_like",)
    assert world.report(accept=("constant_column",)).warnings == ()


def test_errors_come_first_and_accepted_findings_last():
    world = a_clean_world("regression").with_column("a", np.full(600, 1)).with_column("b", [None] * 600)
    world = world.with_column("copy", world.target[:, 0])
    findings = world.report(accept=("constant_column",)).findings
    assert [f.code for f in findings] == ["label_leakage", "empty_column", "constant_column"]


def test_unknown_targets_are_left_out():
    world = a_clean_world("regression")
    target = world.target.copy()
    target[::10] = np.nan
    split = split_at(600, 450)
    split[::10] = "quarantined"
    assert codes(world.having(target=target).report(split=split)) == {"set_aside"}


def test_rows_without_any_target_can_be_checked():
    world = a_clean_world()
    assert world.report(target=None).findings == ()


def test_rows_that_all_train_can_be_checked():
    assert a_clean_world().report(split=np.full(600, "train", object)).findings == ()


def test_what_is_known_has_to_be_about_the_rows_that_were_profiled():
    with pytest.raises(DataError, match=r"600 rows were profiled, but `ids` has 3"):
        a_clean_world().report(ids=np.arange(3))


def test_a_report_survives_json():
    report = a_clean_world().with_column("a", np.full(600, 1)).report()
    assert QualityReport.model_validate_json(report.to_json()) == report


def test_one_row_can_be_checked():
    world: World = a_clean_world(num_rows=1)
    assert not world.report().errors


def split_at(num_rows: int, first_test: int) -> np.ndarray:
    return np.where(np.arange(num_rows) >= first_test, "test", "train").astype(object)
