"""The financial report: what following the predictions would have earned, at what risk, and whether it lasted.

A position is taken on each prediction and held until the answer is known; its return is the position times the return
that followed, less the cost of changing it. Who has lost everything is out: that period's return is -1, and what would
come after it is 0. The past is not the future: rows must be ones the predictor never saw.
"""

import math
from typing import Literal

import numpy as np

from training_core.config import Config
from training_core.errors import ConfigError, DataError
from training_core.evaluation.domains.judged import JudgedRows
from training_core.quantities import NonNegativeFloat, PositiveFloat, PositiveInt


class FinancialConfig(Config):
    """How predictions become positions, and what rows are."""

    returns: str = ""
    """Column with the return of each row's asset over the period that is predicted, .01 for 1 %. Empty: the target
    itself, of a regression its first column."""
    market: str = ""
    """Column with the return of the market over the same period. Empty: the mean return of the assets themselves."""
    time: str = ""
    """Column that orders the rows; rows of one time are one period's assets, held in equal parts. Empty: the order
    given, a period each."""
    up: str = ""
    """Classification: the class that means a rising price. Empty: the last one that does not mean a falling one."""
    down: str = ""
    """Classification: the class that means a falling price; all others say nothing of where it goes. Empty: the other
    one, of two classes."""
    position: Literal["long_short", "long_only", "proportional"] = "long_short"
    """+1 or -1 by the sign of what is predicted; +1 or 0; or what is predicted over `full_position`, within ±1."""
    full_position: PositiveFloat = 0.01
    """Predicted return at which a proportional position is a whole one."""
    cost: NonNegativeFloat = 0.0
    """Share of the traded amount that a change of position costs: .001 for ten basis points."""
    periods_per_year: PositiveFloat = 252.0
    """For annual figures: 252 trading days, 12 months."""
    num_windows: PositiveInt = 5
    """Successive stretches of time that are judged one by one."""


class WindowReport(Config):
    """One stretch of time."""

    first_period: int
    """Position of its first period, from 0."""
    num_periods: int
    total_return: float
    sharpe_ratio: float | None


class FinancialReport(Config):
    """What following the predictions would have come to. Ratios are annual; None where a spread is 0."""

    num_rows: int
    num_periods: int
    hit_rate: float | None
    """Share of rows with a position and a return other than 0 whose signs agree; None when there is none."""
    total_return: float
    """Of all periods, compounded."""
    annual_return: float
    """Mean return per period times periods per year."""
    annual_volatility: float
    sharpe_ratio: float | None
    sharpe_std_error: float | None
    """Of the annual ratio, for returns that are independent: √((1 + S²/2) / T) per period (Lo 2002, eq. 9)."""
    max_drawdown: float
    """Largest loss from a peak, as a share of it, 0..1."""
    information_ratio: float | None
    """Mean over spread of the return beyond the market's."""
    market_correlation: float | None
    turnover: float
    """Mean over periods and assets of the change of position."""
    windows: tuple[WindowReport, ...]
    """The same walk forward, stretch by stretch."""
    share_of_windows_up: float


def financial_report(rows: JudgedRows, config: FinancialConfig | None = None) -> FinancialReport:
    """Sharpe ratio, drawdown, information ratio, correlation with the market and the walk forward.

    Raises:
        DataError: there are labels to predict, a column is absent, or a return, of an asset or of the market, is not a
            number or below -1.
        ConfigError: `up` or `down` is no class, or `down` is not named although there are more than two; or a
            classification has no column of returns.
    """
    config = config or FinancialConfig()
    position, returns = _positions(rows, config), _returns(rows, config)
    order, period = _periods(rows, config)
    position, returns, num_periods = position[order], returns[order], int(period[-1]) + 1
    traded = _changes(rows, config, position, order, period)
    count = np.bincount(period)
    earned = _until_ruin(np.bincount(period, position * returns - config.cost * traded) / count)
    market = np.bincount(period, _market(rows, config)[order] if config.market else returns) / count
    asked = (position != 0) & (returns != 0)
    sharpe = sharpe_ratio(earned, config.periods_per_year)
    windows = _windows(earned, config)
    return FinancialReport(
        num_rows=len(rows),
        num_periods=num_periods,
        hit_rate=float(np.mean(np.sign(position[asked]) == np.sign(returns[asked]))) if asked.any() else None,
        total_return=float(np.prod(1 + earned) - 1),
        annual_return=float(earned.mean() * config.periods_per_year),
        annual_volatility=float(earned.std(ddof=1) * math.sqrt(config.periods_per_year)) if num_periods > 1 else 0.0,
        sharpe_ratio=sharpe,
        sharpe_std_error=_sharpe_std_error(sharpe, num_periods, config.periods_per_year),
        max_drawdown=max_drawdown(earned),
        information_ratio=sharpe_ratio(earned - market, config.periods_per_year),
        market_correlation=_correlation(earned, market),
        turnover=float(np.mean(traded)),
        windows=windows,
        share_of_windows_up=float(np.mean([window.total_return > 0 for window in windows])),
    )


def sharpe_ratio(returns: np.ndarray, periods_per_year: float = 252.0) -> float | None:
    """Mean over standard deviation (n - 1) of excess returns [T], times √(periods per year) (Sharpe 1994, eq. 1-6).

    None for fewer than two periods, or returns that are all the same.
    """
    if len(returns) < 2 or np.ptp(returns) == 0:
        return None
    return float(returns.mean() / returns.std(ddof=1) * math.sqrt(periods_per_year))


def max_drawdown(returns: np.ndarray) -> float:
    """Largest fall of compounded wealth from a peak, as a share of the peak; the start counts as one.

    A return of -1 or less loses everything, and nothing is earned after it: the fall is then 1.
    """
    wealth = np.cumprod(np.concatenate([[1.0], 1 + _until_ruin(np.asarray(returns, dtype=np.float64))]))
    return float(np.max(1 - wealth / np.maximum.accumulate(wealth)))


def _until_ruin(earned: np.ndarray) -> np.ndarray:
    """The returns [T] of wealth that stays 0 from the first period that takes all of it, or more."""
    ruined = np.cumsum(earned <= -1)
    return np.where(ruined == 0, earned, np.where((ruined == 1) & (earned <= -1), -1.0, 0.0))


def _positions(rows: JudgedRows, config: FinancialConfig) -> np.ndarray:
    """Position per row, [N] in [-1, 1]."""
    values = rows.predictions.values
    if rows.task.kind == "multilabel":
        raise DataError("a financial report needs one answer per row, a class or a return; this task has labels")
    if rows.task.kind == "classification":
        up, down = _directions(rows.task.classes, config)
        view = values[:, up] - values[:, down]
        proportional = view
    else:
        view = values[:, 0]
        proportional = np.clip(view / config.full_position, -1.0, 1.0)
    if config.position == "proportional":
        return proportional
    return np.sign(view) if config.position == "long_short" else (view > 0).astype(np.float64)


def _directions(classes: tuple[str, ...], config: FinancialConfig) -> tuple[int, int]:
    """The positions of the classes that mean a rising and a falling price."""
    for setting, name in (("up", config.up), ("down", config.down)):
        if name and name not in classes:
            raise ConfigError(f"`{setting}` is '{name}', no class of this task; choose from {', '.join(classes)}")
    up = config.up or next(name for name in reversed(classes) if name != config.down)
    others = [name for name in classes if name != up]
    if config.down == up or (not config.down and len(others) > 1):
        raise ConfigError(
            f"`up` is '{up}' and `down` is '{config.down}'; name the class that means a falling price in `down`, one "
            f"of {', '.join(others)}"
        )
    return classes.index(up), classes.index(config.down or others[0])


def _returns(rows: JudgedRows, config: FinancialConfig) -> np.ndarray:
    if config.returns:
        found = rows.column(config.returns, "what each row's asset returned").astype(np.float64)
    elif rows.task.kind == "regression":
        found = np.asarray(rows.target[:, 0], dtype=np.float64)
    else:
        raise ConfigError("a class says which way a price went and not how far; name the column of `returns`")
    return _checked(found, "returns")


def _market(rows: JudgedRows, config: FinancialConfig) -> np.ndarray:
    return _checked(rows.column(config.market, "the market").astype(np.float64), "returns of the market")


def _checked(returns: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(returns).all() or returns.min() < -1:
        raise DataError(
            f"{what} go from {returns.min()} to {returns.max()}; expected numbers of at least -1, .01 for 1 %"
        )
    return returns


def _periods(rows: JudgedRows, config: FinancialConfig) -> tuple[np.ndarray, np.ndarray]:
    """The order of the rows in time, and the period, counted from 0, of each in that order."""
    if not config.time:
        return np.arange(len(rows)), np.arange(len(rows))
    times = rows.column(config.time, "the order of the rows")
    order = np.argsort(times, kind="stable")
    return order, np.unique(times[order], return_inverse=True)[1].reshape(-1)


def _changes(
    rows: JudgedRows, config: FinancialConfig, position: np.ndarray, order: np.ndarray, period: np.ndarray
) -> np.ndarray:
    """How much each row's position differs from that before it, [N] in order; of an asset by itself where named.

    Assets are told apart by a column `asset`; without it, one asset per period is taken to be always the same one,
    and several of a period are taken to be bought anew each time.
    """
    if "asset" in rows.columns:
        assets = np.unique(np.asarray(rows.columns["asset"])[order].astype(str), return_inverse=True)[1].reshape(-1)
    elif int(period[-1]) + 1 == len(rows):
        assets = np.zeros(len(rows), np.int64)
    else:
        return np.abs(position)
    before = np.zeros(len(rows))
    by_asset = np.argsort(assets, kind="stable")
    same = np.flatnonzero(np.diff(assets[by_asset]) == 0)
    before[by_asset[same + 1]] = position[by_asset[same]]
    return np.abs(position - before)


def _windows(earned: np.ndarray, config: FinancialConfig) -> tuple[WindowReport, ...]:
    parts = np.array_split(np.arange(len(earned)), min(config.num_windows, len(earned)))
    return tuple(
        WindowReport(
            first_period=int(part[0]),
            num_periods=len(part),
            total_return=float(np.prod(1 + earned[part]) - 1),
            sharpe_ratio=sharpe_ratio(earned[part], config.periods_per_year),
        )
        for part in parts
    )


def _sharpe_std_error(sharpe: float | None, num_periods: int, periods_per_year: float) -> float | None:
    if sharpe is None:
        return None
    per_period = sharpe / math.sqrt(periods_per_year)
    return math.sqrt((1 + per_period**2 / 2) / num_periods * periods_per_year)


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])
