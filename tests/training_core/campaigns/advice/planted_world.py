"""Runs with something planted in them that is wrong, trained in this process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training_core.campaigns import bagging
from training_core.campaigns.advice.gathering import gather_evidence
from training_core.campaigns.advice.remedies import suggest_config
from training_core.campaigns.run_config import RunConfig
from training_core.data.synthetic import SyntheticConfig, SyntheticModality, make_synthetic
from training_core.evaluation.diagnostics import Diagnosis, diagnose
from training_core.jobs import JobReport, run_jobs

TWO_VIEWS = (SyntheticModality(name="left", size=6), SyntheticModality(name="right", size=6, strength=1.0))


def write_world(folder: Path, modalities: Sequence[SyntheticModality] = TWO_VIEWS, **settings: Any) -> Path:
    """A made-up source, of which nothing is wrong."""
    config = SyntheticConfig.model_validate({"num_rows": 300, "modalities": tuple(modalities), **settings})
    return make_synthetic(config).write(folder)


def planted_run(source: Path, kinds: Sequence[str] = ("tabular_mlp", "fusion_net"), **settings: Any) -> RunConfig:
    """A small run of nets: the full set and each single modality."""
    usual: dict[str, Any] = {
        "bags": {"num_bags": 3, "num_row_draws": 1},
        "learners": {"learners_per_bag": 1, "include": tuple(kinds)},
        "training": {"epochs": 30, "patience": 10, "lr": 3e-3, "stacking": "never", "checkpoint_seconds": 0},
        "tabular_mlp": {"width": 32},
        "fusion_net": {"width": 16},
        "trackers": (),
    }
    return RunConfig.load(dataset=str(source), **{k: _over(usual.get(k), v) for k, v in {**usual, **settings}.items()})


def _over(usual: Any, given: Any) -> Any:
    return {**usual, **given} if isinstance(usual, dict) and isinstance(given, dict) else given


def trained(run: RunConfig, store: Path) -> list[JobReport]:
    """Every job of the run, trained here and now."""
    ref = bagging.resolve_dataset(run.dataset, store)
    plan = bagging.plan_training(run, ref, bagging.bags_of(run, ref))
    return sorted(run_jobs(plan.jobs, store, "cpu", lambda event: None), key=lambda report: report.name)


def diagnosed(run: RunConfig, reports: Sequence[JobReport], store: Path, **more: Any) -> dict[str, Diagnosis]:
    """What is wrong with the run, by problem."""
    found = gather_evidence(run, bagging.resolve_dataset(run.dataset, store), reports, **more)
    return {diagnosis.problem: diagnosis for diagnosis in diagnose(found)}


def mended(run: RunConfig, diagnosis: Diagnosis, store: Path) -> tuple[RunConfig, list[JobReport]]:
    """The run as suggested for this one diagnosis, and what comes of it."""
    suggested = suggest_config(run, [diagnosis])
    return suggested, trained(suggested, store)


def figure(reports: Sequence[JobReport], metric: str, kind: str = "") -> float:
    """Mean of a metric outside the bags over the learners that trained."""
    values = [r.metrics[metric] for r in reports if r.status != "failed" and kind in r.learner]
    return float(np.mean(values))
