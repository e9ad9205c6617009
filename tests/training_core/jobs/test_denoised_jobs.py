"""Denoising from a run's settings to its jobs: who gets it, and what is found again when it changes."""

from pathlib import Path
from typing import Any

import pytest
from factories import small_run, write_source

from training_core.campaigns import bagging
from training_core.campaigns.run_config import RunConfig
from training_core.errors import ConfigError
from training_core.jobs import Job, read_curves, run_jobs


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("world"), num_rows=160)


def jobs_of(source: Path, store: Path, **denoising: Any) -> dict[str, Job]:
    """Jobs on all modalities and on single ones, of nets and of estimators."""
    run = small_run(
        source,
        learners={"learners_per_bag": 2, "include": ("linear", "tabular_mlp", "fusion_net")},
        training={"epochs": 3, "checkpoint_seconds": 0.0},
        fusion_net={"width": 8},
        denoising=denoising,
    )
    ref = bagging.resolve_dataset(run.dataset, store)
    return {job.name: job for job in bagging.plan_training(run, ref, bagging.bags_of(run, ref)).jobs}


def test_only_nets_on_several_modalities_are_trained_anew_when_denoising_changes(source: Path, tmp_path: Path) -> None:
    off = jobs_of(source, tmp_path)
    on = jobs_of(source, tmp_path, enabled=True)
    assert off.keys() == on.keys()
    anew = {name for name in off if off[name].fingerprint("cpu") != on[name].fingerprint("cpu")}
    concerned = {
        name for name, job in on.items() if job.recipe.learner.family == "net" and len(job.subset.modalities) > 1
    }
    assert anew == concerned and concerned and concerned != {*off}
    still_off = jobs_of(source, tmp_path, weight=0.7)
    assert all(job.fingerprint("cpu") == off[name].fingerprint("cpu") for name, job in still_off.items())


def test_terms_of_a_denoised_job_are_in_its_curves(source: Path, tmp_path: Path) -> None:
    jobs = jobs_of(source, tmp_path, enabled=True, objectives=("consistency", "reconstruction"))
    fusion = next(job for job in jobs.values() if job.recipe.learner.kind == "fusion_net")
    (report,) = run_jobs([fusion], tmp_path, "cpu", lambda event: None)
    assert report.artifact is not None, report.error
    history = read_curves(report.artifact)
    names = fusion.subset.modalities
    wanted = {f"training/denoising/{kind}/{name}" for kind in ("consistency", "reconstruction") for name in names}
    assert wanted | {"training/denoising/total", "training/supervised/cross_entropy"} <= history.epochs[0].keys()


def test_it_is_switched_on_by_one_setting_and_wrong_ones_are_said() -> None:
    assert not RunConfig.load(dataset="any").denoising.enabled
    assert RunConfig.load(dataset="any", overrides=["denoising.enabled=true"]).denoising.enabled
    with pytest.raises(ConfigError, match=r"denoising\.objectives"):
        RunConfig.load(dataset="any", overrides=["denoising.objectives=[rotation]"])
    with pytest.raises(ConfigError, match="go with strategy curriculum"):
        RunConfig.load(dataset="any", denoising={"stages": [{"epochs": 3}]})
