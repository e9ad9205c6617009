"""The financial report, against closed forms."""

import math

import numpy as np
import pytest
from judged_world import judged

from training_core.errors import ConfigError, DataError
from training_core.evaluation.domains.financial import FinancialConfig, financial_report, max_drawdown, sharpe_ratio
from training_core.schema import TaskSpec

VALUES = TaskSpec.regression(("return",))


def test_the_sharpe_ratio_of_known_returns() -> None:
    """Half of the periods +2 %, half 0: mean .01, standard deviation .01 √(n / (n - 1))."""
    returns = np.array([0.02, 0.0] * 50)
    assert sharpe_ratio(returns, 252) == pytest.approx(math.sqrt(99 / 100) * math.sqrt(252))
    assert sharpe_ratio(np.full(10, 0.01)) is None
    assert sharpe_ratio(np.array([0.01])) is None


def test_the_drawdown_counts_from_the_highest_peak() -> None:
    assert max_drawdown(np.array([0.1, -0.5, 0.2, 0.5])) == pytest.approx(0.5)
    assert max_drawdown(np.array([-0.2, 0.1])) == pytest.approx(0.2), "the start is a peak"
    assert max_drawdown(np.array([0.1, 0.1])) == 0.0
    assert max_drawdown(np.array([-1.0, 0.5])) == 1.0


def test_perfect_foresight_earns_every_move() -> None:
    returns = np.random.default_rng(0).normal(0, 0.01, 300)
    report = financial_report(judged(VALUES, returns[:, None], returns[:, None]))
    assert report.hit_rate == 1.0
    assert report.total_return == pytest.approx(np.prod(1 + np.abs(returns)) - 1)
    assert report.annual_return == pytest.approx(np.abs(returns).mean() * 252)
    assert report.max_drawdown == 0.0
    assert report.market_correlation == pytest.approx(np.corrcoef(np.abs(returns), returns)[0, 1])
    beyond = np.abs(returns) - returns
    assert report.information_ratio == pytest.approx(beyond.mean() / beyond.std(ddof=1) * math.sqrt(252))
    assert [window.num_periods for window in report.windows] == [60] * 5
    assert report.share_of_windows_up == 1.0
    blind = financial_report(judged(VALUES, returns[:, None], -returns[:, None]))
    assert blind.hit_rate == 0.0
    assert (blind.sharpe_ratio or 0) == pytest.approx(-(report.sharpe_ratio or 0))


def test_the_error_of_the_sharpe_ratio_is_seen_in_repetition() -> None:
    draws = np.random.default_rng(1).normal(0.001, 0.01, (2000, 250))
    ratios = [sharpe_ratio(row, 252) or 0.0 for row in draws]
    report = financial_report(judged(VALUES, draws[0][:, None], np.ones((250, 1))))
    assert report.sharpe_std_error == pytest.approx(np.std(ratios), rel=0.05)


def test_following_the_market_is_the_market() -> None:
    returns = np.random.default_rng(2).normal(0, 0.01, 50)
    report = financial_report(judged(VALUES, returns[:, None], np.ones((50, 1))))
    assert report.market_correlation == pytest.approx(1.0)
    assert report.information_ratio is None, "never beyond it"
    assert report.turnover == pytest.approx(1 / 50), "bought once and held"


def test_trading_costs() -> None:
    returns = np.zeros(4)
    view = np.array([[1.0], [-1.0], [-1.0], [1.0]])
    report = financial_report(judged(VALUES, returns[:, None], view), FinancialConfig(cost=0.01))
    assert report.turnover == pytest.approx((1 + 2 + 0 + 2) / 4)
    assert report.total_return == pytest.approx(0.99 * 0.98 * 1.0 * 0.98 - 1)
    assert report.hit_rate is None


def test_assets_of_one_time_are_one_period() -> None:
    day = np.array([2, 1, 1, 2])
    returns = np.array([0.04, 0.01, 0.03, -0.02])
    rows = judged(VALUES, returns[:, None], np.ones((4, 1)), day=day, asset=np.array(["a", "b", "a", "b"]))
    report = financial_report(rows, FinancialConfig(time="day", num_windows=2))
    assert report.num_periods == 2
    assert [window.total_return for window in report.windows] == pytest.approx([0.02, 0.01])
    assert report.turnover == pytest.approx(0.5), "both bought on the first day and held"


def test_classes_need_a_column_of_returns() -> None:
    task = TaskSpec.classification(("down", "up"))
    values = np.array([[0.2, 0.8], [0.9, 0.1], [0.5, 0.5]])
    target, moves = np.array([1, 0, 1]), np.array([0.02, -0.01, 0.05])
    with pytest.raises(ConfigError, match="name the column of `returns`"):
        financial_report(judged(task, target, values))
    report = financial_report(judged(task, target, values, moves=moves), FinancialConfig(returns="moves"))
    assert report.total_return == pytest.approx(1.02 * 1.01 - 1), "no position without a view"
    assert report.hit_rate == 1.0
    part = FinancialConfig(returns="moves", position="proportional")
    assert financial_report(judged(task, target, values, moves=moves), part).total_return == pytest.approx(
        (1 + 0.6 * 0.02) * (1 + 0.8 * 0.01) - 1
    )
    long = FinancialConfig(returns="moves", position="long_only", up="down")
    assert financial_report(judged(task, target, values, moves=moves), long).total_return == pytest.approx(-0.01)


def test_of_three_classes_the_falling_one_has_to_be_named() -> None:
    task = TaskSpec.classification(("down", "flat", "up"))
    values, target = np.tile([0.1, 0.45, 0.45], (10, 1)), np.full(10, 2)
    rows = judged(task, target, values, moves=np.full(10, 0.01))
    with pytest.raises(ConfigError, match="name the class that means a falling price in `down`, one of down, flat"):
        financial_report(rows, FinancialConfig(returns="moves"))
    report = financial_report(rows, FinancialConfig(returns="moves", down="down"))
    assert report.total_return == pytest.approx(1.01**10 - 1), "up is likelier than down"
    assert report.hit_rate == 1.0
    for wrong in ("sideways", "up"):
        with pytest.raises(ConfigError, match=f"`down` is '{wrong}'"):
            financial_report(rows, FinancialConfig(returns="moves", up="up", down=wrong))


def test_where_only_the_falling_class_is_named_the_other_rises() -> None:
    task = TaskSpec.classification(("rise", "sink"))
    rows = judged(task, np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]]), moves=np.array([0.02, 0.01]))
    report = financial_report(rows, FinancialConfig(returns="moves", down="sink"))
    assert report.total_return == pytest.approx(1.02 * 1.01 - 1)


def test_what_cannot_be_a_return_is_refused() -> None:
    with pytest.raises(DataError, match="expected numbers of at least -1"):
        financial_report(judged(VALUES, np.array([[np.nan], [0.1]]), np.zeros((2, 1))))
    with pytest.raises(DataError, match="no column 'index', which would say the market"):
        financial_report(judged(VALUES, np.zeros((2, 1)), np.zeros((2, 1))), FinancialConfig(market="index"))


def test_who_has_lost_everything_is_out() -> None:
    """Short twice into +200 %: the second loss cannot win back what the first one took."""
    moves = np.array([[0.1], [2.0], [2.0], [0.5], [0.1]])
    rows = judged(VALUES, moves, np.array([[1.0], [-1.0], [-1.0], [1.0], [1.0]]))
    report = financial_report(rows, FinancialConfig(num_windows=5))
    assert report.total_return == -1.0 and report.max_drawdown == 1.0
    assert [window.total_return for window in report.windows] == pytest.approx([0.1, -1.0, 0.0, 0.0, 0.0])
    assert report.annual_return == pytest.approx((0.1 - 1.0) / 5 * 252)
    assert report.share_of_windows_up == pytest.approx(0.2)
    assert max_drawdown(np.array([0.5, -2.0, -2.0])) == 1.0


def test_a_market_that_is_no_return_is_refused() -> None:
    moves, up = np.array([[0.01], [0.02], [-0.01]]), np.ones((3, 1))
    for wrong in (np.nan, np.inf, -1.5):
        rows = judged(VALUES, moves, up, index=np.array([0.01, wrong, 0.0]))
        with pytest.raises(DataError, match=r"returns of the market go from .* expected numbers of at least -1"):
            financial_report(rows, FinancialConfig(market="index"))
    rows = judged(VALUES, moves, up, index=np.array([0.0, 0.01, 0.0]))
    assert financial_report(rows, FinancialConfig(market="index")).information_ratio is not None
