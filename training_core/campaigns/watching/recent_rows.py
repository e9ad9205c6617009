"""How far back a retraining learns: from all rows, or from the newest, by what quick learners make of the very newest.

After a change of what rows mean (concept drift) old rows teach what holds no more; without one, fewer rows teach less.
So the newest training rows are put to quick learners trained on windows of different length that end before them, as
Klinkenberg and Joachims 2000 (ICML, §3) do with the newest batch. All rows train unless a window is shown to be better:
on the electricity market a rule of one standard error threw half the past away for nothing. Rows that judge the
challenger later take no part.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training_core.campaigns.budget import max_bytes
from training_core.campaigns.run_bags import run_spec
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.watching.hold_out import Candidates, Recent
from training_core.campaigns.watching.profiles import MIN_JUDGED_ROWS
from training_core.data.storage.store import Dataset
from training_core.engine.train import train_learner
from training_core.errors import DataError, PolychoirError
from training_core.evaluation.metrics import loss
from training_core.evaluation.statistics import Resamples, compare_losses, resample
from training_core.learners import LearnerConfig
from training_core.schema import DataSpec, Samples, TaskSpec
from training_core.seeding import generator
from training_core.selection.cost_model import predict_cost
from training_core.variants import kind_of

_LEVEL = 0.90
"""Of the interval of what a window saves, which has to lie above zero: one in twenty is let through by chance."""
_JUDGED_SHARE = 1 / 3
"""Of the shortest window, the newest rows that compare the windows; the rest of it is learned from."""
_MAX_JUDGED_ROWS = 2000
_MAX_ROWS = 20_000
"""Rows of a window that quick learners are given, drawn from it: which window is best shows with them."""
_MAX_SECONDS = 30.0
"""What one quick learner may be expected to take; the whole choice is to take less than a minute or two."""
_QUICK = ("linear", "tfidf_linear", "lightgbm")
"""Straight ones and a bent one: what those of them that suit the data say together is near what an ensemble says."""


def choose_recent(latest: Dataset, run: RunConfig, candidates: Candidates) -> Recent:
    """How many of the newest rows to train on, and why.

    The windows are all rows, those that came in since the drift showed, and the newest half. Shorter ones have to beat
    longer ones beyond chance (p < .05, one-sided) in paired losses per row, in which groups and blocks of time count as
    one. Where nothing can be compared, all rows train.

    Args:
        latest: the data set that the rows are of.
        run: what will be trained: its modalities, its seed, its memory.
        candidates: what may train.
    """
    num_rows = len(candidates.rows)
    lengths = sorted({candidates.num_since, num_rows // 2} - {num_rows}, reverse=True)
    lengths = [length for length in lengths if length * (1 - _JUDGED_SHARE) >= MIN_JUDGED_ROWS]
    if not lengths:
        return Recent(why=f"all {num_rows:,} rows train: too few came in lately to learn from them alone")
    wanted = min(max(round(lengths[-1] * _JUDGED_SHARE), MIN_JUDGED_ROWS), _MAX_JUDGED_ROWS)
    is_judged = candidates.order >= candidates.order[-wanted]
    judged, before = candidates.rows[is_judged], candidates.rows[~is_judged]
    lengths = [length for length in lengths if length - len(judged) >= MIN_JUDGED_ROWS]
    if not lengths or len(before) < MIN_JUDGED_ROWS:
        return Recent(why=f"all {num_rows:,} rows train: the newest are of one time or group, too many to compare by")
    try:
        said = _said(
            latest, run, judged, {length: before[-(length - len(judged)) :] for length in (num_rows, *lengths)}
        )
    except PolychoirError as error:
        return Recent(why=f"all {num_rows:,} rows train: quick learners cannot compare windows of them ({error})")
    chosen = num_rows
    for length in lengths:
        if said.saves(length, chosen):
            chosen = length
    found = "; ".join(f"{said.loss(length):.4f} after the newest {length:,}" for length in lengths)
    found = f"on the {len(judged):,} newest of them {said.kinds} lose {said.loss(num_rows):.4f} after all; {found}"
    if chosen == num_rows:
        return Recent(why=f"all {num_rows:,} rows train, since no shorter past is shown to be better: {found}")
    return Recent(chosen, f"the newest {chosen:,} of {num_rows:,} rows train, since older ones mislead: {found}")


@dataclass(frozen=True)
class _Said:
    """What quick learners say of the rows that compare, by the length of the window they learned from."""

    task: TaskSpec
    kinds: str
    target: np.ndarray
    answers: Mapping[int, np.ndarray]
    drawn: Resamples

    def loss(self, length: int) -> float:
        """Mean loss per row."""
        return float(loss(self.task, self.target, self.answers[length]).mean())

    def saves(self, length: int, other: int) -> bool:
        """Whether one window's loss is smaller than another's beyond chance."""
        found = compare_losses(
            self.task, self.target, self.answers[length], self.answers[other], self.drawn, level=_LEVEL
        )
        return found.interval.low > 0


def _said(latest: Dataset, run: RunConfig, judged: np.ndarray, windows: Mapping[int, np.ndarray]) -> _Said:
    """Train the quick learners on each window, and ask them about the rows that compare.

    Rows that lack what a learner cannot do without are left out for all; targets of a regression are taken in units of
    their own spread, so that no column counts more for being in smaller units.

    Raises:
        DataError: no quick learner suits the data, or none answers for any row.
    """
    spec = run_spec(run, latest)
    learners = _quick_learners(run, spec, min(max(map(len, windows.values())), _MAX_ROWS))
    if not learners:
        raise DataError("none of the quick learners takes these modalities in time")
    samples = latest.samples(judged, spec.names)
    answers = {}
    for length, rows in windows.items():
        if len(rows) > _MAX_ROWS:
            rows = np.sort(generator(run.seed, "recent rows").choice(rows, _MAX_ROWS, replace=False))
        answers[length] = np.mean([_answered(one, latest, rows, samples, run) for one in learners], axis=0)
    heard = np.isfinite(np.concatenate(list(answers.values()), axis=1)).all(axis=1)
    if not heard.any():
        raise DataError("they answer for none of the newest rows")
    rows, target = judged[heard], latest.target(judged[heard])
    scale = np.maximum(target.std(axis=0), 1e-12) if spec.task.kind == "regression" else None
    return _Said(
        task=spec.task,
        kinds=" and ".join(kind_of(type(one)) for one in learners),
        target=target if scale is None else target / scale,
        answers={k: values[heard] if scale is None else values[heard] / scale for k, values in answers.items()},
        drawn=resample(len(rows), seed=run.seed, groups=latest.groups(rows), times=latest.times(rows)),
    )


def _quick_learners(run: RunConfig, spec: DataSpec, num_rows: int) -> list[LearnerConfig]:
    """Those that suit the data, in time and memory."""
    settings: list[LearnerConfig] = [getattr(run, kind) for kind in _QUICK]
    fitting = [(one, predict_cost(one, spec, num_rows, 1)) for one in settings if one.supports(spec) is None]
    most = max_bytes(run) or np.inf
    return [one for one, cost in fitting if cost.seconds <= _MAX_SECONDS and cost.bytes <= most]


def _answered(config: LearnerConfig, latest: Dataset, rows: np.ndarray, samples: Samples, run: RunConfig) -> np.ndarray:
    """What a learner of some rows says of others, [n, C]; NaN where it cannot say."""
    spec = run_spec(run, latest)
    train = latest.subset(rows, spec.names)
    learner, _ = train_learner(config, train, None, spec, {}, run.training, run.seed)
    return learner.predict(samples)
