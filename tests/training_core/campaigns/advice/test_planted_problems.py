"""One run per problem with the problem planted in it: it is found, and the suggested settings measurably help."""

from pathlib import Path

import pytest
from planted_world import diagnosed, mended, planted_run, trained, write_world

from training_core.campaigns import bagging
from training_core.campaigns.advice.gathering import gather_trainings
from training_core.campaigns.advice.remedies import suggest_config
from training_core.campaigns.run_config import RunConfig
from training_core.data.synthetic import SyntheticModality
from training_core.evaluation.diagnostics import OVER_MEMORY, diagnose
from training_core.evaluation.evidence import RunEvidence, RunLimits
from training_core.isolation import run_isolated
from training_core.jobs import Cohort, JobReport

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

STRONG, WEAK = SyntheticModality(name="left", size=6, strength=3.0), SyntheticModality(name="right", size=6)
HUM = SyntheticModality(name="hum", size=60, role="noise")


def whole(reports: list[JobReport]) -> JobReport:
    """The learner on all modalities of the run."""
    return next(report for report in reports if report.bag == "bag-00")


def test_a_run_that_is_well_is_left_alone(tmp_path: Path) -> None:
    run = planted_run(write_world(tmp_path / "world"), training={"epochs": 20})
    assert diagnosed(run, trained(run, tmp_path), tmp_path) == {}


def test_divergence_is_calmed(tmp_path: Path) -> None:
    source = write_world(tmp_path / "world", num_rows=150)
    run = planted_run(source, training={"lr": 1e30, "clip_norm": 0.0, "epochs": 5})
    reports = trained(run, tmp_path)
    assert {report.status for report in reports} == {"failed"}
    suggested, better = mended(run, diagnosed(run, reports, tmp_path)["diverged"], tmp_path)
    assert (suggested.training.lr, suggested.training.clip_norm) == (1e-3, 1.0)
    assert {report.status for report in better} == {"trained"}


def test_overfitting_is_held_down(tmp_path: Path) -> None:
    source = write_world(tmp_path / "world", num_rows=160, label_noise=0.2)
    run = planted_run(source, training={"validation_fraction": 0.0, "epochs": 60})
    reports = trained(run, tmp_path)
    suggested, better = mended(run, diagnosed(run, reports, tmp_path)["overfitting"], tmp_path)
    assert suggested.fusion_net.dropout > run.fusion_net.dropout
    assert whole(better).metrics["log_loss"] < 0.8 * whole(reports).metrics["log_loss"]
    assert "overfitting" not in diagnosed(suggested, better, tmp_path)


def test_a_modality_of_noise_is_left_out(tmp_path: Path) -> None:
    source = write_world(tmp_path / "world", (STRONG.model_copy(update={"strength": 1.0}), HUM), num_rows=700)
    run = planted_run(source, bags={"row_fraction": 0.6}, training={"epochs": 20})
    reports = trained(run, tmp_path)
    suggested, better = mended(run, diagnosed(run, reports, tmp_path)["noise_modality"], tmp_path)
    assert suggested.modalities == ("left",)
    assert whole(better).metrics["log_loss"] < 0.95 * whole(reports).metrics["log_loss"]


def test_denoising_that_dominates_is_turned_down(tmp_path: Path) -> None:
    denoising = {"enabled": True, "weight": 100.0, "objectives": ("reconstruction", "alignment")}
    run = planted_run(write_world(tmp_path / "world"), denoising=denoising, training={"epochs": 6})
    reports = trained(run, tmp_path)
    suggested, better = mended(run, diagnosed(run, reports, tmp_path)["denoising_dominates"], tmp_path)
    assert 0 < suggested.denoising.weight < 1
    assert whole(better).metrics["log_loss"] < 0.95 * whole(reports).metrics["log_loss"]
    assert "denoising_dominates" not in diagnosed(suggested, better, tmp_path)


def test_a_net_that_leans_on_one_modality_learns_to_do_without(tmp_path: Path) -> None:
    source = write_world(tmp_path / "world", (STRONG, WEAK), num_rows=400)
    run = planted_run(source, training={"modality_dropout": 0.01})
    reports = trained(run, tmp_path)
    found = diagnosed(run, reports, tmp_path)["poor_cross_modal"]
    suggested, better = mended(run, found, tmp_path)
    assert (suggested.training.modality_dropout, suggested.denoising.enabled) == (0.3, True)
    assert "poor_cross_modal" not in diagnosed(suggested, better, tmp_path)
    assert (whole(better).score or 0) > (whole(reports).score or 0) - 0.06


def test_too_few_epochs_become_more(tmp_path: Path) -> None:
    run = planted_run(write_world(tmp_path / "world"), training={"epochs": 5, "lr": 3e-4})
    reports = trained(run, tmp_path)
    suggested, better = mended(run, diagnosed(run, reports, tmp_path)["unfinished"], tmp_path)
    assert suggested.training.epochs == 10
    assert whole(better).metrics["log_loss"] < whole(reports).metrics["log_loss"]


def test_tiny_batches_that_take_too_long_are_widened(tmp_path: Path) -> None:
    source = write_world(tmp_path / "world", num_rows=200)
    run = planted_run(source, training={"batch_size": 1, "epochs": 3, "validation_fraction": 0.0})
    reports = trained(run, tmp_path)
    took = sum(report.cpu_seconds for report in reports)  # which other programs of this machine do not change
    evidence = RunEvidence(trainings=gather_trainings(reports), limits=RunLimits(seconds=took * 0.6), seconds=took)
    slow = next(found for found in diagnose(evidence) if found.problem == "slow")
    suggested, better = mended(run.model_copy(), slow, tmp_path)
    assert suggested.training.batch_size == 4
    assert sum(report.cpu_seconds for report in better) < 0.8 * took


def test_memory_that_is_too_small_is_made_do_with(tmp_path: Path) -> None:
    """A learner's process is measured, so each has one."""
    source = write_world(tmp_path / "world", num_rows=5000)
    settings = {"tabular_mlp": {"width": 2048}, "bags": {"num_bags": 1}}
    run = planted_run(source, ("tabular_mlp",), training={"batch_size": 2048, "epochs": 1}, **settings)

    def peak(which: RunConfig) -> tuple[int, list[JobReport]]:
        ref = bagging.resolve_dataset(which.dataset, tmp_path)
        jobs = bagging.plan_training(which, ref, bagging.bags_of(which, ref)).jobs
        reports = run_isolated(Cohort(name="one", jobs=jobs[:1]), tmp_path, lambda event: None)
        return reports[0].peak_bytes, reports

    before, reports = peak(run)
    limit = 0.9 * before
    ended = reports[0].model_copy(update={"status": "failed", "error": f"took {before} bytes {OVER_MEMORY} {limit}"})
    evidence = RunEvidence(trainings=gather_trainings([ended]), limits=RunLimits(memory_bytes=limit))
    (memory,) = (found for found in diagnose(evidence) if found.problem == "memory")
    suggested = suggest_config(run, [memory])
    assert suggested.training.batch_size * suggested.training.accumulation == 2048
    after, _ = peak(suggested)
    assert after < 0.95 * before, (before, after)
