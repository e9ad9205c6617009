"""Training a model again: whether it may be, on which rows, with which settings, and what is remembered of it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from training_core.artifacts import exclusive
from training_core.campaigns.evaluation.subject import ModelRef, seen_rows, training_settings, training_version
from training_core.campaigns.promotion.decide import PromotionConfig
from training_core.campaigns.promotion.verbs import Outcome as Promotion
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.summary import RunSummary
from training_core.campaigns.watching.hold_out import Cut, Recent, cut, is_cut
from training_core.campaigns.watching.monitor import MonitorConfig, MonitorReport, find_watched
from training_core.campaigns.watching.profiles import MIN_JUDGED_ROWS
from training_core.campaigns.watching.recent_rows import choose_recent
from training_core.campaigns.watching.state import WatchFolder, WatchState
from training_core.campaigns.watching.trigger import Outcome, RetrainRecord, RetrainRule, held_back
from training_core.config import Config
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.errors import DataError, TransientError
from training_core.quantities import NonNegativeInt, OpenUnit
from training_core.selection.ensemble import Ensemble


class RetrainConfig(Config):
    """One retraining of a model."""

    model: str
    """A registered name (its champion, else its newest version), `name@alias`, `models:/NAME/VERSION`, or a folder."""
    dataset: str = ""
    """`name@version` with the rows, of the data set the model is named after; by default its latest version."""
    reason: str = "manual"
    """What it is for: drift, degradation, schedule, manual. For the record."""
    window: str = ""
    """Label of the window that confirmed a drift: of the rows since it showed, some train and the newest judge."""
    force: bool = False
    """Train even in the cool-down, or when nothing has changed."""
    promote: Literal["never", "if_better", "ask"] = "if_better"
    """if_better: the challenger takes over when it is better on fresh rows. ask, never: it waits for `promote`, where
    a person may be asked."""
    rule: RetrainRule = RetrainRule()
    recent_rows: NonNegativeInt = 0
    """Train on at most so many rows, the newest (a sliding window). 0: on all of them, unless quick learners show that
    older ones mislead; more than there are: on all whatever they show."""
    holdout: OpenUnit = 0.3
    """Share of the new rows that judge, the newest; neither model is trained on them."""
    keep_learners: bool = True
    """Let the champion's learners take part as they are, beside those that are trained on the new rows; they are
    weighed on rows they have not seen."""


class RetrainPlan(Config):
    """What a retraining is going to do, or why it does nothing."""

    model: str
    """Registered name."""
    champion: str
    """The version that answers now, or the ensemble's folder."""
    latest: str
    """`name@version` the rows are taken from."""
    refusal: str = ""
    """Why nothing is trained; empty when something is."""
    run: RunConfig | None = None
    """What is trained; None when nothing is."""
    num_new: NonNegativeInt = 0
    """Rows that the champion's data did not have."""
    num_training: NonNegativeInt = 0
    num_hold_out: NonNegativeInt = 0
    """Rows that judge both."""
    trains_on: str = ""
    """Which of the rows that do not judge train, and why, as a sentence."""


class RetrainReport(Config):
    """What came of a retraining."""

    plan: RetrainPlan
    outcome: Outcome
    """refused: nothing was trained, or what was trained is not better."""
    why: str
    """A sentence."""
    version: str = ""
    """URI of what was trained; empty when nothing was."""
    score: float | None = None
    """Headline score of what was trained, on the rows that judge."""


@contextmanager
def in_flight(model: str, store: Path) -> Iterator[bool]:
    """For as long as the block lasts nobody else retrains the model; the kernel ends it with the process.

    Yields:
        Whether this is the one; False when another process is at it.

    Raises:
        ConfigError: there is no such model.
    """
    folder = WatchFolder(store, find_watched(model, store).load().name)
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(folder.path / ".retraining", wait=False))
        except TransientError:
            yield False
            return
        yield True


def already_running(request: RetrainConfig, store: Path) -> RetrainPlan:
    """The plan of whoever comes second: nothing."""
    champion = find_watched(request.model, store)
    return RetrainPlan(
        model=champion.load().name,
        champion=champion.name,
        latest=request.dataset,
        refusal="another retraining of it is running",
    )


def called_for(request: MonitorConfig, report: MonitorReport) -> RetrainConfig:
    """The retraining that a look calls for, whoever starts it: `monitor --retrain`, or what listens for its event."""
    return RetrainConfig(model=request.model, reason=report.retrain.cause, window=report.window, rule=request.retrain)


def plan_retraining(request: RetrainConfig, store: Path, now: float | None = None) -> RetrainPlan:
    """Look whether a model may be trained again, and cut its data; what is to be trained is remembered as started.

    The settings are those of the champion's own run; where the store has no record of it, the defaults with its seed.
    One that was killed is planned the same again, so that it goes on with what it has trained; one that was killed
    after its challenger had taken over is remembered as what it was, a promotion.

    Raises:
        ConfigError: there is no such model.
        DataError: there is no such data set.
        StorageError: files are damaged or cannot be written.
    """
    champion = find_watched(request.model, store)
    ensemble = champion.load()
    datasets = DatasetStore(store / "datasets")
    latest = datasets.open(request.dataset or ensemble.manifest.dataset.partition("@")[0])
    plan = RetrainPlan(model=ensemble.name, champion=champion.name, latest=latest.ref)
    if latest.name != ensemble.name:
        return plan.model_copy(update={"refusal": _other_data(latest, ensemble)})
    known = training_version(ensemble, datasets)
    folder = WatchFolder(store, ensemble.name)
    now = time.time() if now is None else now
    with folder.locked() as state:
        if (mended := _taken_over(state, plan, known)) is not state:
            folder.write(mended)
    held = "" if request.force else _unchanged(latest, known) or _held(request, mended, latest, now)
    if held:
        return plan.model_copy(update={"refusal": held})
    settings = training_settings(champion.artifact, store) or RunConfig(dataset="", seed=ensemble.manifest.seed)
    try:
        made = cut(
            datasets,
            latest,
            known,
            share=request.holdout,
            num_drifted=mended.rows_of_streak(request.window),
            recent=_recent_of(request) or partial(choose_recent, latest, settings),
        )
    except DataError as error:
        return plan.model_copy(update={"refusal": f"the new rows cannot be split: {error}"})
    plan = _planned(plan, made, request, champion, ensemble, settings)
    if not plan.refusal:
        _remember(request, plan, store, "started", now=now)
    return plan


def promotion_of(request: RetrainConfig, plan: RetrainPlan, trained: RunSummary) -> PromotionConfig | None:
    """What a challenger is to be compared by: on the rows that were kept apart for it, against the champion.

    None where nobody is to be promoted now, or what was trained is no other registered version.
    """
    if request.promote != "if_better" or _left_alone(plan, trained):
        return None
    return PromotionConfig(
        model=plan.model,
        challenger=trained.model.rpartition("/")[2],
        dataset=trained.dataset,
        rows="unseen",
        why=request.reason,
        by="retrain",
    )


def conclude_retraining(
    request: RetrainConfig, plan: RetrainPlan, trained: RunSummary, promotion: Promotion | None, store: Path
) -> RetrainReport:
    """Remember what came of a retraining, and report it.

    Raises:
        StorageError: the state cannot be written.
    """
    if promotion is not None:
        outcome: Outcome = "promoted" if promotion.action in ("promoted", "first") else "refused"
        why = promotion.reason
    elif left := _left_alone(plan, trained):
        outcome, why = "refused", left
    else:
        outcome, why = "challenger", f"{trained.model} waits for somebody to promote it (`promote`: {request.promote})"
    _remember(request, plan, store, outcome, trained.model, why)
    return RetrainReport(plan=plan, outcome=outcome, why=why, version=trained.model, score=trained.score)


def fail_retraining(request: RetrainConfig, plan: RetrainPlan, store: Path, error: BaseException) -> None:
    """Remember that a retraining failed: it holds back no other one."""
    if plan.run is not None:
        _remember(request, plan, store, "failed", why=f"{type(error).__name__}: {error}")


def _left_alone(plan: RetrainPlan, trained: RunSummary) -> str:
    """Why what was trained cannot be promoted, as a sentence; empty when it can."""
    if not trained.model.startswith("models:/"):
        return f"{trained.model} is in no registry, so it cannot take over; add mlflow to `trackers`"
    return f"{trained.model} is the champion already" if trained.model == plan.champion else ""


def _remember(
    request: RetrainConfig,
    plan: RetrainPlan,
    store: Path,
    outcome: Outcome,
    version: str = "",
    why: str = "",
    now: float | None = None,
) -> None:
    """Write a record in the place of the one that was only started."""
    folder = WatchFolder(store, plan.model)
    record = RetrainRecord(
        time=time.time() if now is None else now,
        reason=request.reason,
        window=request.window,
        dataset=plan.latest,
        champion=plan.champion,
        outcome=outcome,
        version=version,
        why=why,
    )
    with folder.locked() as state:
        kept = state.retrains[:-1] if _is_open(state) else state.retrains
        folder.write(state.model_copy(update={"retrains": (*kept, record)}))


def _is_open(state: WatchState) -> bool:
    """Whether the last retraining was only started: it runs, or was killed."""
    return bool(state.retrains) and state.retrains[-1].outcome == "started"


def _taken_over(state: WatchState, plan: RetrainPlan, known: Dataset | None) -> WatchState:
    """The state with a retraining that was killed after its challenger took over told as a promotion.

    Another champion answers than when it began, and was trained on the rows that it took.
    """
    if known is None or not _is_open(state):
        return state
    last = state.retrains[-1]
    trained_on = {known.ref, f"{known.name}@{known.parent}"} if is_cut(known) else {known.ref}
    if last.champion in ("", plan.champion) or last.dataset not in trained_on:
        return state
    told = {"outcome": "promoted", "version": plan.champion, "why": "it took over; what trained it was killed then"}
    return state.model_copy(update={"retrains": (*state.retrains[:-1], last.model_copy(update=told))})


def _unchanged(latest: Dataset, known: Dataset | None) -> str:
    """Why there is nothing new to train on; empty when there is."""
    if known is None or latest.version not in (known.version, known.parent):
        return ""
    return f"{latest.ref} is what the champion was trained on already; append new rows first"


def _held(request: RetrainConfig, state: WatchState, latest: Dataset, now: float) -> str:
    held = held_back(request.rule, state.retrains, latest.ref, now)
    return f"{held}; `force` trains all the same" if held else ""


def _other_data(latest: Dataset, ensemble: Ensemble) -> str:
    """Why a model is not trained again on another data set than that it is named after."""
    return (
        f"what is trained on {latest.ref} would be a version of '{latest.name}', and never one of '{ensemble.name}'; "
        f"append its rows to '{ensemble.name}' (polychoir append), or train a model of its own (polychoir train "
        f"{latest.name})"
    )


def _recent_of(request: RetrainConfig) -> Recent | None:
    """How many rows train where the request says so."""
    if not request.recent_rows:
        return None
    return Recent(request.recent_rows, f"at most the newest {request.recent_rows:,} rows train, as `recent_rows` says")


def _planned(
    plan: RetrainPlan, made: Cut, request: RetrainConfig, champion: ModelRef, ensemble: Ensemble, settings: RunConfig
) -> RetrainPlan:
    seen = seen_rows(ensemble, made.dataset)
    num_fresh = made.num_hold_out if seen is None else int((~seen[made.dataset.rows("test")]).sum())
    plan = plan.model_copy(
        update={
            "num_new": made.num_new,
            "num_training": made.num_training,
            "num_hold_out": num_fresh,
            "trains_on": made.recent.why,
        }
    )
    refusal = ""
    if made.num_hold_out < MIN_JUDGED_ROWS:
        refusal = (
            f"only {made.num_hold_out} rows would judge (`holdout` {request.holdout:g} of {made.num_new} new ones), "
            f"and it takes {MIN_JUDGED_ROWS}; wait for more rows"
        )
    elif request.promote == "if_better" and seen is None:
        refusal = (
            f"{ensemble.manifest.dataset}, which the champion was trained on, is not in this store any more, so nobody "
            "can say which rows are fresh to it, and nothing could take over; with `promote: never` it is trained all "
            "the same"
        )
    elif request.promote == "if_better" and num_fresh < MIN_JUDGED_ROWS:
        refusal = (
            f"only {num_fresh} of the {made.num_hold_out} rows that would judge are fresh to the champion, which was "
            f"trained on the others, and it takes {MIN_JUDGED_ROWS}; append new rows, or train it all the same with "
            "`promote: never`"
        )
    if refusal:
        return plan.model_copy(update={"refusal": refusal})
    kept = champion.name if request.keep_learners and made.num_new else ""
    changes = {"dataset": made.dataset.ref, "tune": False, "keep_learners_of": kept}
    return plan.model_copy(update={"run": settings.model_copy(update=changes)})
