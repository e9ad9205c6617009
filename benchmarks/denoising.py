"""What cross-modal denoising and the rate of modality dropout do to nets whose modalities go missing, and to ensembles.

`python benchmarks/denoising.py` trains fusion nets on digits in halves and made-up worlds (`--source` adds others),
each with several settings, and prints a table per world. Settings are paired: the same splits, first weights and absent
modalities. A made-up world is made anew for every seed, so that its seeds share nothing. A setting's figure is the area
under the curve of its score over the rate at which modalities are absent from test rows, 0 to 90 % in steps of ten, one
modality at least always there; differences are to the first setting, with the standard error over seeds and two 95 %
intervals: the plain one of Student's t, which takes splits of one data set for independent, and for such splits the one
corrected for the rows they share (Nadeau & Bengio 2003). `--settings` names others, such as each objective apart.
`--ensembles balanced` trains whole ensembles of a preset instead, `--kinds fusion_net` with learners of such kinds
alone. Settings named `off, input noise …` and the like add a regulariser of nets to the first one; `--train-rows` says
from how few rows is learned.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_cases import TEST_SHARE, with_split
from scipy.stats import t as student

from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.run_config import PRESETS
from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.ingestion.ingest import prepare_dataset
from training_core.data.storage.dataset import Dataset
from training_core.data.storage.store import DatasetStore
from training_core.data.synthetic import SyntheticConfig, SyntheticModality, make_synthetic
from training_core.engine.prepare import LearnerRequest
from training_core.engine.train import train_learners
from training_core.engine.training import TrainingConfig
from training_core.evaluation.metrics import metrics
from training_core.learners import FusionNetConfig
from training_core.objectives.denoising import OBJECTIVES, DenoisingConfig
from training_core.schema import Samples
from training_core.seeding import generator

Area = dict[str, float]
MADE_UP = ("redundant", "partial", "partial classes", "mixed")
FIRST_WORLD = 100
"""Seed of the first made-up world; lower ones were used while the method was found."""
RATES = tuple(rate / 10 for rate in range(10))
TRAINING = {"epochs": 40, "patience": 8, "batch_size": 64, "lr": 0.002, "stacking": "always", "checkpoint_seconds": 0.0}


def without(dropout: float = 0.3, schedule: str = "constant", **net: Any) -> dict[str, Any]:
    """A setting without denoising; by default what training does anyway."""
    training = {"modality_dropout": dropout, "modality_dropout_schedule": schedule}
    return {"training": training, "denoising": {}, "fusion_net": {"width": 32, **net}}


def denoised(*objectives: str, net: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A setting with denoising, as it is when it is switched on but for `settings`; no objectives: the usual one."""
    learned = {"enabled": True, **settings, **({"objectives": objectives} if objectives else {})}
    return {"training": {}, "denoising": learned, "fusion_net": {"width": 32, **(net or {})}}


def regularised(**training: float) -> dict[str, Any]:
    """A setting without denoising, and with regularisers of nets."""
    usual = without()
    return {**usual, "training": {**usual["training"], **training}}


SETTINGS: dict[str, dict[str, Any]] = {
    "off": without(),
    "off, no dropout": without(dropout=0.0),
    "off, hiding as denoising does": without(dropout=0.9, schedule="uniform"),
    "on": denoised(),
    "views alone": denoised(weight=0.0),
    "consistency alone": denoised(views=("shown",)),
    "all but the full view": denoised(views=("shown", "rest")),
    "all but the rest": denoised(views=("shown", "full")),
    "consistency .03": denoised(weight=0.03),
    "consistency .3": denoised(weight=0.3),
    **{f"views, {kind} .1": denoised(kind) for kind in OBJECTIVES if kind != "consistency"},
    "views, all five .1": denoised(*OBJECTIVES),
    "views, all five .1, adaptive": denoised(*OBJECTIVES, strategy="adaptive"),
    "off, filled": without(fill_missing=True),
    "on, filled": denoised(net={"fill_missing": True}),
    "off, input noise .1": regularised(input_noise=0.1),
    "off, input noise .3": regularised(input_noise=0.3),
    "off, feature dropout .1": regularised(feature_dropout=0.1),
    "off, feature dropout .3": regularised(feature_dropout=0.3),
    "off, mixup .2": regularised(mixup=0.2),
    "off, mixup 1": regularised(mixup=1.0),
    "off, noise, features, mixup": regularised(input_noise=0.1, feature_dropout=0.1, mixup=0.2),
}
SHOWN = ("off", "off, no dropout", "off, hiding as denoising does", "on", "views alone", "consistency alone")
"""What is trained unless other settings are asked for."""


@dataclass(frozen=True)
class World:
    """Where a seed's data come from, and how many of their rows nets learn from."""

    name: str
    dataset_of: Callable[[int], Dataset]
    is_made_up: bool = False
    """Every seed has a world of its own."""
    num_train: int = 640

    def split(self, dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows to train on, to stop by and to be judged on: a seed's own."""
        order = generator(seed, "split").permutation(len(dataset))
        first, second = self.num_train, self.num_train + self.num_train // 4
        return order[:first], order[first:second], order[second : second + 1000]


def halves(store: Path) -> World:
    """scikit-learn's digits, the upper and the lower half of each."""
    from sklearn.datasets import load_digits

    loaded: Any = load_digits()
    views = {"top": loaded.data[:, :32].astype("f4"), "bottom": loaded.data[:, 32:].astype("f4")}
    names = [f"digit {label}" for label in loaded.target]

    def dataset_of(seed: int) -> Dataset:
        split = {"test": TEST_SHARE, "seed": seed}
        return create_dataset_from_arrays("halves", views, names, task="classification", store=store, split=split)

    return World("halves", dataset_of)


def given(source: Path, store: Path) -> World:
    """A data set of the user's, split at random by each seed."""

    def dataset_of(seed: int) -> Dataset:
        return prepare_dataset(with_split(source, store / f"sources/{seed}", seed), DatasetStore(store / "datasets"))

    return World(source.parent.name, dataset_of)


def made_up(name: str, store: Path) -> World:
    """Made-up worlds by their name.

    redundant: two modalities tell what another one tells. partial: regression, each modality tells a share of the
    answer, one nothing, and a fifth of what there could be is absent in training too. partial classes: the same with
    classes. mixed: regression, kinds of all sorts.
    """
    echoing = (
        SyntheticModality(name="one", strength=1.5, size=16),
        SyntheticModality(name="two", strength=1.0, size=16),
        SyntheticModality(name="echo", role="redundant", copies="one", size=16),
        SyntheticModality(name="echo2", role="redundant", copies="two", size=16),
    )
    mixed = (
        SyntheticModality(name="photo", kind="image", strength=1.0),
        SyntheticModality(name="facts", kind="tabular", strength=1.0),
        SyntheticModality(name="words", kind="text"),
        SyntheticModality(name="hum", kind="sequence", role="noise"),
    )
    partial = (
        SyntheticModality(name="one", strength=1.5, missing=0.2),
        SyntheticModality(name="two", strength=1.0, missing=0.2),
        SyntheticModality(name="facts", kind="tabular", strength=1.0, missing=0.2),
        SyntheticModality(name="echo", role="redundant", copies="one", missing=0.2),
        SyntheticModality(name="hum", role="noise", missing=0.2),
    )
    has_classes = name in ("redundant", "partial classes")

    def dataset_of(seed: int) -> Dataset:
        config = SyntheticConfig(
            name=f"{name.replace(' ', '-')}-{seed}",
            task="classification" if has_classes else "regression",
            num_outputs=4 if has_classes else 2,
            num_rows=2000,
            modalities={"redundant": echoing, "mixed": mixed}.get(name, partial),
            label_noise=0.05,
            seed=FIRST_WORLD + seed,
        )
        world = make_synthetic(config)
        return create_dataset_from_arrays(
            config.name, world.modalities, world.target, task=config.task, kinds=world.kinds, store=store
        )

    return World(name, dataset_of, is_made_up=True)


def hidden(names: Sequence[str], num_rows: int, rate: float, seed: int) -> dict[str, np.ndarray]:
    """Which modalities each row shows, bool [rows], when each is absent at `rate`; one always stays."""
    draws = generator(seed, "absent", round(100 * rate)).random((num_rows, len(names)))
    shown = (draws >= rate) | (draws == draws.max(axis=1, keepdims=True))
    return {name: shown[:, i] for i, name in enumerate(names)}


def areas(predict: Any, samples: Samples, dataset: Dataset, seed: int) -> Area:
    """Means over the rates of the task's score and of its loss, and the score with everything there."""
    task = dataset.spec.task
    loss = {"classification": "log_loss", "multilabel": "log_loss", "regression": "rmse"}[task.kind]
    found: list[Mapping[str, float]] = []
    for rate in RATES:
        shown = hidden(dataset.spec.names, len(samples), rate, seed)
        available = {name: mask & shown[name] for name, mask in samples.available.items()}
        some = np.logical_or.reduce(list(available.values()))
        part = Samples(samples.inputs, available, samples.ids, samples.target).take(np.flatnonzero(some))
        assert part.target is not None
        found.append(metrics(task, part.target, predict(part)))
    scores = [one[task.metric] for one in found]
    return {
        "clean": float(scores[0]),
        "area": float(np.mean(scores)),
        "loss": float(np.mean([one[loss] for one in found])),
    }


def judge_nets(world: World, settings: Mapping[str, Any], seeds: Sequence[int]) -> list[Area]:
    """Areas of fusion nets trained with `settings`, one per seed."""
    requests, tests = [], []
    for seed in seeds:
        dataset = world.dataset_of(seed)
        train, validation, test = world.split(dataset, seed)
        names = dataset.spec.names
        requests.append(
            LearnerRequest(
                FusionNetConfig.model_validate(settings["fusion_net"]),
                dataset.subset(train, names),
                dataset.subset(validation, names),
                dataset.spec,
                {},
                TrainingConfig.model_validate({**TRAINING, **settings["training"]}),
                seed,
                denoising=DenoisingConfig.model_validate(settings["denoising"]),
            )
        )
        tests.append((dataset, dataset.subset(test, names).samples()))
    outcomes = train_learners(requests)
    found = []
    for seed, outcome, (dataset, samples) in zip(seeds, outcomes, tests, strict=True):
        if isinstance(outcome, Exception):
            raise outcome
        epochs = {"epochs": float(len(outcome.history.epochs))}
        outcome.learner.tolerates = frozenset(dataset.spec.names)  # asked in part even if it never met an absence
        found.append({**areas(outcome.learner.predict, samples, dataset, seed), **epochs})
    return found


def judge_ensembles(
    world: World, settings: Mapping[str, Any], seeds: Sequence[int], store: Path, learners: Mapping[str, Any]
) -> list[Area]:
    """Areas of whole ensembles, one per seed, on the test rows of its data set's own split."""
    found = []
    for seed in seeds:
        dataset = world.dataset_of(seed)
        samples = dataset.subset(dataset.rows("test"), dataset.spec.names).samples()
        fitted = fit_ensemble(dataset, store=store, seed=seed, processes=False, **learners, **settings)
        found.append(areas(lambda part: fitted.under_patterns(part).predict().values, samples, dataset, seed))  # noqa: B023
    return found


def shares(world: World, whole: bool) -> float:
    """Test rows for each row that was learned from, in one split."""
    if whole:
        return TEST_SHARE / (1 - TEST_SHARE)
    dataset = world.dataset_of(0)
    train, validation, test = world.split(dataset, 0)
    return len(test) / (len(train) + len(validation))


def line(name: str, found: Sequence[Area], base: Sequence[Area], seconds: float, overlap: float | None) -> str:
    """A row of the table; `overlap` corrects a second interval, of the area, for splits that share rows."""
    cells = [f"{name:<42}"]
    for key in ("clean", "area", "loss"):
        mean = statistics.mean(one[key] for one in found)
        moved = [one[key] - other[key] for one, other in zip(found, base, strict=True)]
        error = statistics.stdev(moved) / len(moved) ** 0.5 if len(moved) > 1 else float("nan")
        reach = error * float(student.ppf(0.975, max(len(moved) - 1, 1)))
        middle = statistics.mean(moved)
        cells.append(f"{mean:7.4f} {middle:+.4f} ±{error:.4f} [{middle - reach:+.4f} {middle + reach:+.4f}]")
        if key == "area" and overlap is not None:
            reach *= (1 + len(moved) * overlap) ** 0.5
            cells.append(f"corrected [{middle - reach:+.4f} {middle + reach:+.4f}]")
    epochs = statistics.mean(one.get("epochs", 0.0) for one in found)
    return "  ".join([*cells, f"{epochs:5.1f} epochs", f"{seconds:6.1f} CPU-s"])


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--source", type=Path, action="append", default=[], help="a further data set")
    parser.add_argument("--worlds", nargs="*", choices=["halves", *MADE_UP], default=["halves", *MADE_UP])
    parser.add_argument("--settings", nargs="*", default=list(SHOWN), choices=list(SETTINGS))
    parser.add_argument("--ensembles", choices=list(PRESETS), help="whole ensembles of a preset, not fusion nets")
    parser.add_argument("--kinds", nargs="*", default=[], help="the kinds of learners in them; all by default")
    parser.add_argument("--train-rows", type=int, default=World.num_train, help="rows that fusion nets learn from")
    parser.add_argument("--own", type=json.loads, default={}, help="further settings as JSON, by name")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    store = Path(tempfile.mkdtemp(prefix="denoising-"))
    worlds = [halves(store) if name == "halves" else made_up(name, store) for name in asked.worlds]
    worlds += [given(source, store) for source in asked.source]
    worlds = [replace(world, num_train=asked.train_rows) for world in worlds]
    settings = {**{name: SETTINGS[name] for name in asked.settings}, **asked.own}
    kinds = {"include": asked.kinds} if asked.kinds else {}
    for world in worlds:
        print(f"\n{world.name}: clean score, area, area of the loss; each with its difference to the first", flush=True)
        base: list[Area] = []
        for name, chosen in settings.items():
            start = time.process_time()
            seeds = range(asked.seeds)
            found = (
                judge_ensembles(world, chosen, seeds, store, {"preset": asked.ensembles, "learners": kinds})
                if asked.ensembles
                else judge_nets(world, chosen, seeds)
            )
            base = base or found
            overlap = None if world.is_made_up else shares(world, bool(asked.ensembles))
            print(line(name, found, base, time.process_time() - start, overlap), flush=True)


if __name__ == "__main__":
    main()
