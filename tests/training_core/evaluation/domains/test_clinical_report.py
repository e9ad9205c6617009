"""The clinical report, against scikit-learn and published intervals."""

import numpy as np
import pytest
from judged_world import judged, two_classes
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from training_core.errors import ConfigError, DataError
from training_core.evaluation.domains.clinical import ClinicalConfig, clinical_report, wilson_interval
from training_core.schema import TaskSpec

SICK = TaskSpec.classification(("healthy", "sick"))


def test_figures_are_those_of_the_confusion_matrix() -> None:
    target, values = two_classes()
    (sick,) = clinical_report(judged(SICK, target, values)).conditions
    tn, fp, fn, tp = confusion_matrix(target, values[:, 1] >= 0.5).ravel()
    found = (sick.sensitivity, sick.specificity, sick.positive_predictive_value, sick.negative_predictive_value)
    expected = (tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn))
    assert [one.value if one else None for one in found] == pytest.approx(expected)
    assert sick.auroc == pytest.approx(roc_auc_score(target, values[:, 1]))
    assert sick.condition == "sick"
    assert sick.prevalence == pytest.approx(target.mean())
    false, true, thresholds = roc_curve(target, values[:, 1], drop_intermediate=False)
    assert sick.youden_threshold == thresholds[np.argmax(true - false)]


def test_the_interval_is_wilsons() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    for hits, cases, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = wilson_interval(hits, cases)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert wilson_interval(29, 29).high == pytest.approx(1.0)


def test_one_against_the_rest_for_several_conditions() -> None:
    draws = np.random.default_rng(0)
    target = draws.integers(0, 3, 300)
    values = draws.dirichlet(np.ones(3), 300) * 0.5 + 0.5 * np.eye(3)[target]
    report = clinical_report(judged(TaskSpec.classification(3), target, values))
    assert len(report.conditions) == 3
    assert report.mean_auroc == pytest.approx(roc_auc_score(target, values, multi_class="ovr"))
    only = clinical_report(judged(TaskSpec.classification(3), target, values), ClinicalConfig(positive=("2",)))
    assert [one.condition for one in only.conditions] == ["2"]


def test_labels_are_conditions_of_their_own() -> None:
    draws = np.random.default_rng(1)
    target = (draws.random((200, 2)) > 0.7).astype(np.float32)
    values = 0.6 * target + 0.4 * draws.random((200, 2))
    report = clinical_report(judged(TaskSpec.multilabel(2), target, values))
    assert [one.auroc for one in report.conditions] == pytest.approx(
        [roc_auc_score(target[:, k], values[:, k]) for k in range(2)]
    )


def test_robustness_and_relevance_come_from_the_patterns() -> None:
    target, good = two_classes(noise=0.2)
    chance = np.full((len(target), 2), 0.5)
    patterns = {"scan+blood": good, "scan": good, "blood": chance}
    report = clinical_report(judged(SICK, target, good, patterns, ("scan", "blood")))
    assert report.robustness == 0.0
    assert report.worst_pattern == ("blood",)
    scan, blood = report.relevance
    assert (scan.modality, blood.modality) == ("scan", "blood")
    assert (blood.auroc_drop, blood.auroc_alone) == (0.0, 0.5)
    assert scan.auroc_drop == pytest.approx((report.mean_auroc or 0) - 0.5)


def test_nobody_is_sick() -> None:
    target, values = two_classes(20)
    (sick,) = clinical_report(judged(SICK, np.zeros_like(target), values)).conditions
    assert sick.sensitivity is None and sick.auroc is None and sick.youden_threshold is None
    assert sick.specificity is not None and sick.specificity.num_cases == 20


def test_what_is_no_condition_is_refused() -> None:
    target, values = two_classes(20)
    with pytest.raises(ConfigError, match="'ill' is no condition of this task; choose from healthy, sick"):
        clinical_report(judged(SICK, target, values), ClinicalConfig(positive=("ill",)))
    with pytest.raises(DataError, match="regression"):
        clinical_report(judged(TaskSpec.regression(), np.zeros((3, 1)), np.zeros((3, 1))))
    with pytest.raises(DataError, match="predictions has 20 rows, the target has 19"):
        judged(SICK, target[:19], values)
