"""One look at what a model meets: its rows are measured, compared with its profile, remembered, and judged."""

import time
from collections.abc import Sequence
from pathlib import Path

from training_core.artifacts import write_text_atomically
from training_core.campaigns.evaluation.subject import ModelRef, find_model
from training_core.campaigns.promotion.ledger import Ledger
from training_core.campaigns.serving import answering, is_bare_name
from training_core.campaigns.watching.profiles import profile_of
from training_core.campaigns.watching.rows import WhichRows, WindowRows, rows_of, source_of, usual_label
from training_core.campaigns.watching.state import WatchFolder, WatchState
from training_core.campaigns.watching.trigger import RetrainRule, RetrainVerdict, should_retrain
from training_core.config import Config
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.errors import ConfigError, DataError, StorageError
from training_core.monitoring import (
    DriftConfig,
    DriftReport,
    DriftWatch,
    ReferenceProfile,
    Tally,
    Verdict,
    Window,
    compare,
    pool,
    reference_for,
    write_html,
)
from training_core.quantities import NonNegativeInt
from training_core.selection.ensemble import Ensemble

_PAST_REPORTS = 24
"""Windows before whose course is drawn on the page of a window: half a year of weeks, a day of hours."""


class MonitorConfig(Config):
    """One look at what a model meets."""

    model: str
    """A registered name (its champion, else its newest version), `name@alias`, `models:/NAME/VERSION`, or a folder."""
    dataset: str = ""
    """`name@version`, `name` for its latest version, or a file of rows (csv, tsv, jsonl, parquet, npz) without answers.
    By default the latest version of the data set that the model was trained on."""
    rows: WhichRows = "new"
    """new: rows that came after the model's data and were in no earlier window. all: every row. test: the test split.
    A file is taken whole."""
    label: str = ""
    """What the window is called; one that was seen is not counted again. By default the version, or the file."""
    season: str = ""
    """What it is compared within, under a seasonal reference: `winter`, `Monday`, `08 h`."""
    drift: DriftConfig = DriftConfig()
    retrain: RetrainRule = RetrainRule()


class MonitorReport(Config):
    """What one look found."""

    model: str
    """Registered name."""
    version: str
    """The version that was watched, or the ensemble's folder."""
    dataset: str
    """`name@version`, or the file, that the rows are from."""
    window: str
    """Label."""
    num_rows: NonNegativeInt
    """Rows of the window."""
    num_late: NonNegativeInt = 0
    """Rows of earlier windows whose answers have become known since; they count for the performance."""
    verdict: Verdict
    """What is confirmed after this window."""
    confirmed: tuple[str, ...] = ()
    """Checks that have warned or drifted in enough successive windows, the most serious first."""
    drift: DriftReport | None = None
    """The comparison; None where there were too few new rows to be a window. They are kept for the next one."""
    retrain: RetrainVerdict
    report: str = ""
    """Path of the page."""
    counted: bool = True
    """Whether it is a window more that is remembered."""
    not_counted: str = ""
    """Why it is none, as a sentence; empty when it is one."""


def monitor(request: MonitorConfig, store: Path) -> MonitorReport:
    """Compare a window of rows with the profile of a model, and remember it.

    Two at once take turns. A window that is there already, by its label, is not measured again: its report is given,
    with what would be done about it now. Windows are those of whoever answers: a look at another version is at all
    rows that came after its data, and is not remembered.

    Raises:
        ConfigError: there is no such model.
        DataError: there are no such rows, or they are not such as the model knows.
        StorageError: files are damaged or cannot be written.
    """
    found = find_watched(request.model, store)
    ensemble = found.load()
    profile = profile_of(found.artifact, store)
    source = source_of(request.dataset, ensemble, store)
    label = request.label or usual_label(source, request.rows)
    folder = WatchFolder(store, ensemble.name)
    other = _answers_instead(request.model, found, ensemble.name, store)
    with folder.locked() as state:
        state = WatchState() if other else state.about(profile.tally.scale)
        latest = _latest_version(ensemble, store)
        if label in state.labels:
            return _seen_before(request, folder, state, label, latest)
        rows = rows_of(source, request.rows, ensemble, store, folder.seen(state))
        report = MonitorReport(
            model=ensemble.name,
            version=found.name,
            dataset=source.ref if isinstance(source, Dataset) else str(source),
            window=label,
            num_rows=len(rows.rows),
            num_late=0 if rows.late is None else len(rows.late),
            verdict=state.watch.verdict,
            confirmed=tuple(state.watch.confirmed),
            retrain=RetrainVerdict(retrain=False, reason="there were too few new rows to be a window"),
            counted=False,
            not_counted="too few new rows to be a window; they wait for more",
        )
        if max(report.num_rows, report.num_late) < request.drift.min_rows:
            return report
        tally = measured(rows, profile, ensemble)
        history = [
            window
            for window in folder.windows(state)
            if window.tally.scale == profile.tally.scale and not _is_answers_only(window.tally)
        ]
        drift = compare(
            reference_for(profile, history, request.drift, request.season), tally, request.drift, label=label
        )
        if other:
            return _told_only(report, drift, other)
        window = Window(label=label, season=request.season, tally=tally)
        return _counted(request, report, drift, window, rows, folder, state, latest)


def find_watched(model: str, store: Path) -> ModelRef:
    """The model that is meant: of a plain name the champion, else the newest version.

    Raises:
        ConfigError: there is no such model.
        StorageError: its files are damaged.
    """
    return find_model(answering(model, store), store)


def measured(rows: WindowRows, profile: ReferenceProfile, ensemble: Ensemble) -> Tally:
    """The tally of a window; rows whose answers came late count for its performance only."""
    predict = None if profile.tally.performance is None and not _watches_answers(profile) else ensemble.predict
    tally = profile.measure(rows.rows, predict) if len(rows.rows) else None
    late = profile.measure(rows.late, predict) if rows.late is not None else None
    if late is None or tally is None:
        whole = tally or late
        assert whole is not None
        return whole if tally is not None else _answers_only(whole)
    answered = [one for one in (tally, late) if one.performance is not None]
    return tally.model_copy(update={"performance": pool(answered).performance if answered else None})


def _answers_instead(model: str, found: ModelRef, name: str, store: Path) -> str:
    """Who answers to the name of a model, where that is not the one that was found; else, or where nobody does, empty.

    A folder in a store where nobody was ever entered as a champion is asked for no registry.
    """
    if is_bare_name(model) or (Path(found.name).is_dir() and not Ledger(store, name).entries()):
        return ""
    try:
        answers = find_watched(name, store)
    except ConfigError:
        return ""
    return "" if answers.artifact.sha256 == found.artifact.sha256 else answers.name


def _told_only(report: MonitorReport, drift: DriftReport, other: str) -> MonitorReport:
    """What a look at a model that does not answer found: nothing is confirmed by it, and nothing called for."""
    watch = DriftWatch().seen(drift)
    why = f"{other} answers for {report.model}, so that looks at {report.version} are told and not remembered"
    return report.model_copy(
        update={
            "verdict": watch.verdict,
            "confirmed": tuple(watch.confirmed),
            "drift": drift,
            "retrain": RetrainVerdict(retrain=False, reason=why),
            "not_counted": why,
        }
    )


def _counted(
    request: MonitorConfig,
    report: MonitorReport,
    drift: DriftReport,
    window: Window,
    rows: WindowRows,
    folder: WatchFolder,
    state: WatchState,
    latest: str,
) -> MonitorReport:
    watch = state.watch.seen(drift)
    number = folder.put_window(state, window, rows.digests, rows.labelled)
    as_json, page = folder.report_paths(number)
    found = report.model_copy(
        update={
            "verdict": watch.verdict,
            "confirmed": tuple(watch.confirmed),
            "drift": drift,
            "retrain": should_retrain(drift, watch, request.retrain, state.retrains, latest, time.time()),
            "report": str(page),
            "counted": True,
            "not_counted": "",
        }
    )
    write_text_atomically(page, write_html(drift, _past(folder, number)))
    write_text_atomically(as_json, found.model_dump_json(indent=1))
    folder.write(_with_window(state, watch, drift))
    return found


def _with_window(state: WatchState, watch: DriftWatch, drift: DriftReport) -> WatchState:
    return state.model_copy(
        update={
            "watch": watch,
            "labels": (*state.labels, drift.window),
            "num_rows": (*state.num_rows, drift.window_rows),
            "serious": (*state.serious, bool(drift.drifted)),
        }
    )


def _seen_before(
    request: MonitorConfig, folder: WatchFolder, state: WatchState, label: str, latest: str
) -> MonitorReport:
    """The report of a window that counts; what it calls for is asked anew, of the last window only."""
    path, _ = folder.report_paths(state.labels.index(label))
    try:
        kept = MonitorReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} is unreadable; give the window another label to look at its rows again") from error
    verdict = RetrainVerdict(retrain=False, reason="it was followed by other windows, or by another champion")
    if label == state.watch.last and kept.drift is not None:
        verdict = should_retrain(kept.drift, state.watch, request.retrain, state.retrains, latest, time.time())
    return kept.model_copy(update={"retrain": verdict, "counted": False, "not_counted": "it was seen before"})


def _past(folder: WatchFolder, number: int) -> Sequence[DriftReport]:
    found = []
    for earlier in range(max(0, number - _PAST_REPORTS), number):
        try:
            kept = MonitorReport.model_validate_json(folder.report_paths(earlier)[0].read_text(encoding="utf-8"))
        except (OSError, ValueError):  # somebody tidied up: the course begins later
            continue
        if kept.drift is not None:
            found.append(kept.drift)
    return found


def _latest_version(ensemble: Ensemble, store: Path) -> str:
    """`name@version` that a retraining would take its rows from; empty where there is none any more."""
    try:
        return DatasetStore(store / "datasets").open(ensemble.manifest.dataset.partition("@")[0]).ref
    except (DataError, StorageError):
        return ""


def _watches_answers(profile: ReferenceProfile) -> bool:
    return any(name.startswith("prediction/") for name in (*profile.tally.numbers, *profile.tally.categories))


def _answers_only(tally: Tally) -> Tally:
    """A tally of rows that were in an earlier window but for their answers."""
    arrays = {name: array.model_copy(update={"num_rows": 0}) for name, array in tally.arrays.items()}
    nothing: dict[str, object] = {"numbers": {}, "categories": {}, "shares": {}, "arrays": arrays}
    return tally.model_copy(update=nothing)


def _is_answers_only(tally: Tally) -> bool:
    """Whether nothing but answers is known of these rows: later windows cannot be compared with them."""
    return not (tally.numbers or tally.categories or tally.shares or any(a.num_rows for a in tally.arrays.values()))
