import numpy as np
import pytest

from training_core.evaluation.diversity import diversity, yules_q
from training_core.schema import TaskSpec

CLASSES = TaskSpec.classification("ab")


def saying(codes):
    """Sure answers of class codes, [N, 2]."""
    return 0.8 * np.eye(2)[np.asarray(codes)] + 0.1


def test_two_learners_in_a_table_of_four():
    """Both right 3, first alone 2, second alone 1, both wrong 2: the table of Kuncheva and Whitaker, by hand."""
    target = np.zeros(8, int)
    first, second = [0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 1, 1]
    found = diversity(CLASSES, target, np.stack([saying(first), saying(second)]), np.ones(2), ["f", "s"])
    pair = found.pairs[0]
    assert pair.disagreement == pytest.approx(3 / 8)
    assert pair.double_fault == pytest.approx(2 / 8)
    assert pair.q == pytest.approx((3 * 2 - 2 * 1) / (3 * 2 + 2 * 1))
    assert pair.error_correlation == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert (pair.first, pair.second, pair.num_rows) == ("f", "s", 8)
    assert (found.disagreement, found.q, found.num_learners, found.num_rows) == (3 / 8, 0.5, 2, 8)


def test_q_runs_from_never_the_same_error_to_always():
    both = np.array([True, True, False, False])
    assert yules_q(both, both) == 1.0
    assert yules_q(both, ~both) == -1.0
    assert yules_q(both, np.array([True, False, True, False])) == 0.0
    assert yules_q(np.ones(4, bool), np.ones(4, bool)) is None


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_the_error_of_the_mean_is_the_mean_error_less_the_ambiguity(kind):
    draws = np.random.default_rng(0)
    task = {
        "classification": TaskSpec.classification("abc"),
        "multilabel": TaskSpec.multilabel("abc"),
        "regression": TaskSpec.regression("abc"),
    }[kind]
    target = {
        "classification": draws.integers(0, 3, 50),
        "multilabel": (draws.random((50, 3)) < 0.5).astype(np.float32),
        "regression": draws.normal(size=(50, 3)),
    }[kind]
    answers = draws.dirichlet(np.ones(3), (4, 50))
    answers[1, :20] = np.nan
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    found = diversity(task, target, answers, weights, list("wxyz"))
    assert found.ensemble_loss == pytest.approx(found.learner_loss - found.ambiguity)
    assert found.ambiguity > 0
    share = np.where(np.isfinite(answers[:, :, :1]), weights[:, None, None], 0)
    mean = np.nansum(share / share.sum(axis=0) * np.nan_to_num(answers), axis=0)
    truth = np.eye(3)[target] if kind == "classification" else target
    assert found.ensemble_loss == pytest.approx(((mean - truth) ** 2).sum(axis=1).mean())
    assert len(found.pairs) == 6
    assert {pair.num_rows for pair in found.pairs} == {50, 30}
    assert (found.disagreement is None) == (kind == "regression")


def test_copies_of_a_learner_add_nothing():
    draws = np.random.default_rng(1)
    one = draws.dirichlet(np.ones(2), 30)
    found = diversity(CLASSES, draws.integers(0, 2, 30), np.stack([one, one]), np.ones(2), ["a", "b"])
    assert found.ambiguity == pytest.approx(0)
    assert found.disagreement == 0
    assert found.q == 1.0


def test_rows_nobody_speaks_for_and_pairs_that_never_meet_are_left_out():
    answers = np.full((2, 4, 2), np.nan)
    answers[0, 0], answers[1, 1] = [0.9, 0.1], [0.2, 0.8]
    found = diversity(CLASSES, np.zeros(4, int), answers, np.ones(2), ["a", "b"])
    assert found.num_rows == 2
    assert found.pairs[0].num_rows == 0
    assert found.pairs[0].disagreement is None
    assert found.disagreement is None
    nobody = diversity(CLASSES, np.zeros(4, int), np.full((2, 4, 2), np.nan), np.ones(2), ["a", "b"])
    assert (nobody.num_rows, nobody.learner_loss) == (0, 0.0)
