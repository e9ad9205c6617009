"""A year of production in an hour: a stream changes; a model is watched, trained again, and takes over or not.

`python benchmarks/stream.py --elec2 FOLDER` (with `elec.csv`: the electricity market of New South Wales, 45,312 half
hours in time order, of which `vicdemand`, `vicprice` and `transfer` change at row 17,424). The first 26 weeks are a
data set; every later week is appended and looked at by `monitor`; a confirmed drift starts a retraining, which chooses
by itself how far back it learns; the challenger takes over when it is better on its hold-out. Everything but Prefect
and the registry is what production runs.

Accuracy is prequential: a week is predicted before anybody has learned from it. Beside the model that is trained
again: `frozen`, the first model for ever; `sliding`, trained again every `--every` weeks on the newest `--recent` rows
whatever happens; `last label`, the answer of the row before. A shuffled copy, in which nothing changes, gives the false
alarms.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from training_core.artifacts import open_published
from training_core.campaigns.bagging import dataset_ref
from training_core.campaigns.evaluation.subject import ModelRef
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.promotion.contest import hold_contest
from training_core.campaigns.promotion.decide import PromotionConfig, decide
from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.watching.hold_out import Recent, cut
from training_core.campaigns.watching.monitor import MonitorConfig, monitor
from training_core.campaigns.watching.profiles import publish_profile
from training_core.campaigns.watching.retraining import RetrainConfig, called_for, plan_retraining
from training_core.campaigns.watching.trigger import RetrainRule
from training_core.data.ingestion.ingest import append_to_dataset, prepare_dataset
from training_core.data.storage.store import Dataset, DatasetStore
from training_core.monitoring import DriftConfig
from training_core.selection.ensemble import Ensemble

WEEK, CHANGE, FIRST_WEEKS = 336, 17_424, 26
VIEWS = {"nsw": ("period", "nswprice", "nswdemand"), "vic": ("vicprice", "vicdemand", "transfer")}
RULE = RetrainRule(min_days=0.0)  # a week takes seconds here


class Stream:
    """The rows, and a store into which they come week by week."""

    def __init__(self, frame: pd.DataFrame, place: Path, weeks: int) -> None:
        self.frame = frame.assign(row=[f"row-{i}" for i in range(len(frame))], time=np.arange(len(frame), dtype=float))
        self.place, self.store = place, place / "store"
        self.datasets = DatasetStore(self.store / "datasets")
        self.weeks = range(FIRST_WEEKS, min(len(frame) // WEEK, FIRST_WEEKS + weeks))

    def begin(self) -> Dataset:
        """The first weeks as a data set."""
        return prepare_dataset(self._source(0, FIRST_WEEKS * WEEK), self.datasets)

    def arrive(self, week: int) -> Dataset:
        """One week more."""
        return append_to_dataset(self._source(week * WEEK, WEEK), self.datasets)

    def train(self, run: RunConfig) -> ModelRef:
        """An ensemble and its profile."""
        folder = fit_ensemble(run, self.store, processes=False).folder
        ensemble, dataset = open_published(folder), self.datasets.open(run.dataset)
        publish_profile(ensemble, dataset_ref(dataset, self.store), self.store, None)
        return ModelRef(name=str(folder), artifact=ensemble)

    def _source(self, first: int, num_rows: int) -> Path:
        folder = self.place / f"from-{first}"
        folder.mkdir(parents=True)
        self.frame.iloc[first : first + num_rows].to_csv(folder / "rows.csv", index=False)
        views = "".join(
            f"  {name}: {{kind: tabular, file: rows.csv, columns: [{', '.join(columns)}]}}\n"
            for name, columns in VIEWS.items()
        )
        (folder / "source.yaml").write_text(
            "name: elec2\ntask: {kind: classification, target: {file: rows.csv, column: class}}\n"
            "id: {file: rows.csv, column: row}\ntime: {file: rows.csv, column: time}\nsplit: {test: 0.2}\n"
            "quality: {accept: [label_leakage, duplicate_rows, constant]}\n"
            f"modalities:\n{views}"
        )
        return folder / "source.yaml"


def settings(dataset: str, preset: str) -> RunConfig:
    """Of every training."""
    return RunConfig.load(dataset=dataset, preset=preset, learners={"include": ("linear", "lightgbm")}, trackers=[])


def streamed(
    stream: Stream, preset: str, drift: DriftConfig, every: int, recent: int, tell: Callable[[str], None]
) -> None:
    """Run the stream and print what came of it."""
    first = stream.begin()
    frozen = champion = sliding = stream.train(settings(first.ref, preset))
    loaded: dict[str, Ensemble] = {}
    right: dict[str, list[np.ndarray]] = {name: [] for name in ("frozen", "trained again", "sliding", "last label")}
    warned, asked, promoted = [], [], []
    for week in stream.weeks:
        latest = stream.arrive(week)
        rows = np.arange(latest.num_rows - WEEK, latest.num_rows)
        samples, target = latest.samples(rows), latest.target(rows)
        for name, model in (("frozen", frozen), ("trained again", champion), ("sliding", sliding)):
            ensemble = loaded.setdefault(model.name, model.load())
            right[name].append(ensemble.predict(samples).values.argmax(axis=1) == target)
        before = latest.target(np.array([rows[0] - 1]))
        right["last label"].append(np.concatenate([before, target[:-1]]) == target)
        request = MonitorConfig(model=champion.name, drift=drift, retrain=RULE)
        found = monitor(request, stream.store)
        if found.drift is not None and found.drift.drifted:
            warned.append(week)
        if found.retrain.retrain:
            asked.append(week)
            champion_now = again(stream, champion, preset, called_for(request, found), tell, week)
            promoted += [week] if champion_now is not champion else []
            champion = champion_now
        if (week - FIRST_WEEKS + 1) % every == 0:
            made = cut(stream.datasets, latest, first, share=0.05, recent=Recent(recent))
            sliding = stream.train(settings(made.dataset.ref, preset))
    weeks = len(stream.weeks)
    tell(f"{weeks} weeks: {len(warned)} warned, {len(asked)} asked for training, {len(promoted)} promoted")
    after = [week for week in asked if (week + 1) * WEEK > CHANGE]
    if after:
        tell(f"first asked after the change at row {CHANGE}: {(after[0] + 1) * WEEK - CHANGE} rows after it")
    for name, weekly in right.items():
        late = weekly[max(0, CHANGE // WEEK - FIRST_WEEKS) :] or weekly
        tell(
            f"  {name:14s} accuracy {np.concatenate(weekly).mean():.4f}, "
            f"after the change {np.concatenate(late).mean():.4f}"
        )


def again(
    stream: Stream, champion: ModelRef, preset: str, request: RetrainConfig, tell: Callable[[str], None], week: int
) -> ModelRef:
    """The challenger where it is better on its hold-out; else the champion."""
    plan = plan_retraining(request, stream.store)
    if plan.run is None:
        tell(f"  week {week}: {plan.refusal}")
        return champion
    tell(f"  week {week}: {plan.trains_on}")
    run = settings(plan.run.dataset, preset).model_copy(update={"keep_learners_of": plan.run.keep_learners_of})
    challenger = stream.train(run)
    contest = hold_contest(champion, challenger, run.dataset, "unseen", stream.store)
    decision = decide(contest, PromotionConfig(model="elec2"))
    tell(f"  week {week}: {'promoted' if decision.promote else 'refused'}: {decision.reason}")
    return challenger if decision.promote else champion


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elec2", type=Path, required=True, help="folder with elec.csv")
    parser.add_argument("--weeks", type=int, default=108, help="weeks after the first 26")
    parser.add_argument("--preset", default="quick", help="of every training")
    parser.add_argument("--every", type=int, default=4, help="weeks between two sliding trainings")
    parser.add_argument("--recent", type=int, default=26 * WEEK, help="rows of a sliding training")
    parser.add_argument("--reference", default="training", choices=("training", "rolling"))
    given = parser.parse_args()
    rows = pd.read_csv(given.elec2 / "elec.csv")
    compared = DriftConfig(reference=given.reference)
    for title, frame in (("in time order", rows), ("shuffled", rows.sample(frac=1, random_state=0))):
        print(f"\nelec2, {title}, reference: {given.reference}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            world = Stream(frame.reset_index(drop=True), Path(folder), given.weeks)
            streamed(world, given.preset, compared, given.every, given.recent, lambda text: print(text, flush=True))
