"""The report of a run's trainings, from trainings whose figures are known."""

import pytest

from training_core.engine.loop import History
from training_core.engine.watching.speed import SpeedReport
from training_core.evaluation.analytics import LearnerTraining, TrainingReport, analyse_learner, report_training
from training_core.evaluation.impact import paired_impact


def speed(seconds: float, learners: int = 1, gpu: float | None = None) -> SpeedReport:
    return SpeedReport(
        learners=learners,
        device="cpu",
        num_samples=1000,
        num_steps=100,
        num_updates=50,
        seconds=seconds,
        samples_per_second=1000 / seconds,
        updates_per_second=50 / seconds,
        data_wait_share=0.1,
        first_step_seconds=0.1,
        step_seconds_median=0.01,
        step_seconds_p95=0.02,
        peak_memory_bytes=10,
        gpu_utilization=gpu,
    )


def net(name: str, **given: object) -> LearnerTraining:
    epochs = tuple(
        {"training/loss": t, "validation/loss": v, "training/denoising/alignment": d, "training/supervised/ce": t / 2}
        for t, v, d in ((4.0, 2.0, 8.0), (2.0, 1.0, 4.0), (1.0, 1.5, 2.0))
    )
    history = History(epochs=epochs, num_steps=3, stop_reason="no lower validation loss", best_epoch=2)
    usual = {"learner": "fusion_net", "modalities": ("a", "b"), "history": history, "score": 0.8, "seconds": 6.0}
    return LearnerTraining.model_validate({"name": name, **usual, **given})


ESTIMATOR = LearnerTraining(name="tree", learner="hist_boosting", modalities=("a",), score=0.9, seconds=4.0)
FAILED = LearnerTraining(name="bad", learner="linear", modalities=("a",), status="failed", error="no")
SKIPPED = FAILED.model_copy(update={"name": "late", "status": "skipped"})


def test_a_net_in_figures() -> None:
    found = analyse_learner(net("n", peak_bytes=5_000_000, speed=speed(2.0)), {"a": 0.7, "b": 0.3}, ("a.x",))
    assert (found.epochs, found.kept_epoch, found.epoch_seconds, found.memory_mb) == (3, 2, 2.0, 5.0)
    assert (found.final_loss, found.best_loss) == (1.5, 1.0)
    assert (found.convergence_epoch, found.convergence_rate) == (2, 1.0)
    assert found.overfitting == pytest.approx(0.0), "at the kept epoch both losses are 1"
    assert found.generalisation_loss == pytest.approx(0.5)
    assert found.stability == 1.0
    assert found.denoising_share == pytest.approx(0.5)
    assert found.denoising == {"alignment": 0.25}
    assert (found.samples_per_second, found.updates_per_second) == (500, 25)
    assert found.modality_weights == {"a": 0.7, "b": 0.3}


def test_an_estimator_has_no_curves() -> None:
    found = analyse_learner(ESTIMATOR)
    assert (found.epochs, found.final_loss, found.stability, found.overfitting) == (0, None, None, None)


def test_a_run_in_figures() -> None:
    impact = paired_impact({"n": 0.8, "m": 0.7}, {"n": 0.7, "m": 0.5})
    report = report_training(
        [
            net("n", speed=speed(2.0, gpu=0.5), predicted_seconds=3.0),
            net("m", score=0.7, seconds=3.0, cpu_seconds=9.0, peak_bytes=8_000_000, predicted_seconds=3.0),
            ESTIMATOR,
            FAILED,
            SKIPPED,
        ],
        denoising_impact=impact,
    )
    assert (report.num_learners, report.num_failed, report.num_skipped, report.success_rate) == (5, 1, 1, 0.75)
    assert report.mean_score == pytest.approx(0.8)
    assert (report.best_learner, report.best_score, report.final_loss) == ("tree", 0.9, 1.5)
    assert (report.total_seconds, report.cpu_seconds, report.epoch_seconds) == (13.0, 9.0, 1.5)
    assert (report.peak_mb, report.gpu_utilization, report.convergence_epoch) == (8.0, 0.5, 2.0)
    assert (report.samples_per_second, report.updates_per_second) == (500, 25)
    assert report.predicted_ratio == pytest.approx(1.5)
    assert report.denoising_impact is not None and report.denoising_impact.mean == pytest.approx(0.15)
    assert report.seconds_by_learner()["tree"] == 4.0
    assert TrainingReport.model_validate_json(report.to_json()) == report


def test_the_members_of_a_stack_are_counted_once() -> None:
    together = speed(2.0, learners=2)
    report = report_training([net("n", speed=together), net("m", speed=together)])
    assert report.samples_per_second == 500


def test_a_run_of_nothing() -> None:
    report = report_training([])
    assert (report.num_learners, report.success_rate, report.best_learner, report.peak_mb) == (0, 0.0, None, 0.0)
