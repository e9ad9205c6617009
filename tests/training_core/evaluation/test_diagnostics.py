"""Each diagnosis on evidence that shows it, and none on evidence of a training that is well."""

import math

import pytest

from training_core.engine.loop import History
from training_core.engine.updates.memory import does_not_fit
from training_core.evaluation.analytics import LearnerTraining
from training_core.evaluation.diagnostics import OVER_MEMORY, Diagnosis, diagnose
from training_core.evaluation.evidence import (
    CrossModalEvidence,
    GeneralisationEvidence,
    ModalityEvidence,
    RunEvidence,
    RunLimits,
)
from training_core.evaluation.importance import Association, Importance


def net(
    training: list[float],
    validation: list[float] | None = None,
    name: str = "bag-00/tabular_mlp",
    stop_reason: str = "no lower validation loss for 5 epochs",
    terms: dict[str, list[float]] | None = None,
    **given: object,
) -> LearnerTraining:
    """A net with these losses per epoch."""
    epochs = [{"training/loss": loss} for loss in training]
    for key, values in {**({"validation/loss": validation} if validation else {}), **(terms or {})}.items():
        for epoch, value in zip(epochs, values, strict=True):
            epoch[key] = value
    history = History(epochs=tuple(epochs), num_steps=len(epochs), stop_reason=stop_reason)
    return LearnerTraining.model_validate(
        {"name": name, "learner": "tabular_mlp", "modalities": ("a",), "history": history, **given}
    )


WELL = net([1.0, 0.5, 0.3, 0.25, 0.22], [1.0, 0.6, 0.45, 0.44, 0.45])


def problems(*trainings: LearnerTraining, **more: object) -> dict[str, Diagnosis]:
    evidence = RunEvidence.model_validate({"trainings": trainings, **more})
    return {found.problem: found for found in diagnose(evidence)}


def test_nothing_is_wrong_with_nothing_and_with_what_is_well() -> None:
    assert problems() == {}
    assert problems(WELL, limits=RunLimits(seconds=10, memory_bytes=1e9), seconds=9.0) == {}


def test_divergence_is_told_from_other_failures() -> None:
    lost = LearnerTraining(
        name="b", learner="x", modalities=("a",), status="failed", error="DivergenceError: loss became nan"
    )
    other = lost.model_copy(update={"name": "c", "error": "ConfigError: no"})
    assert problems(WELL, lost, other)["diverged"].learners == ("b",)
    assert problems(WELL, other) == {}


@pytest.mark.parametrize(
    "error",
    [
        "its process was killed by signal 9",
        "RuntimeError: CUDA out of memory",
        f"took 2.1 GB {OVER_MEMORY} 2.0 GB",
        f"ConfigError: {does_not_fit(1)}",
    ],
)
def test_memory_that_ran_out_or_was_beyond_the_limit(error: str) -> None:
    killed = LearnerTraining(name="b", learner="x", modalities=("a",), status="failed", error=error)
    found = problems(WELL, killed, limits=RunLimits(memory_bytes=1e9))["memory"]
    assert found.learners == ("b",)
    assert found.figures == {"peak_bytes": WELL.peak_bytes, "limit_bytes": 1e9}
    assert error in found.evidence


def test_pages_of_mapped_files_are_not_memory_beyond_the_limit() -> None:
    mapped = WELL.model_copy(update={"peak_bytes": 2_000_000_000})
    assert problems(mapped, limits=RunLimits(memory_bytes=1e9)) == {}


def test_denoising_dominates_by_its_share_of_the_loss() -> None:
    def denoised(share: float) -> LearnerTraining:
        own = [1.0, 0.8, 0.7, 0.65]
        terms = {
            "training/supervised/cross_entropy": own,
            "training/denoising/alignment": [9.0, 7.0, 5.0, 4.0],
        }
        return net([loss / (1 - share) for loss in own], terms=terms)

    found = problems(denoised(0.9))["denoising_dominates"]
    assert found.figures["denoising_share"] == pytest.approx(0.9)
    assert problems(denoised(0.5)) == {}


def test_objectives_that_are_not_learned_are_named() -> None:
    terms = {
        "training/supervised/cross_entropy": [1.0, 0.8, 0.7, 0.6],
        "training/denoising/alignment": [3.0, 3.1, 3.1, 3.09],
        "training/denoising/reconstruction": [3.0, 2.0, 1.0, 0.9],
        "training/denoising/consistency": [0.0, 0.1, 0.2, 0.3],
    }
    found = problems(net([1.5, 1.2, 1.1, 1.0], terms=terms))
    assert found["denoising_stalls"].objectives == ("alignment",)


def test_unsteady_training() -> None:
    assert problems(net([2.0, 1.0, 3.0, 1.5, 4.0]))["unstable"].figures["stability"] < 0.5


def test_one_of_many_is_chance_and_not_the_settings() -> None:
    rough = net([2.0, 1.0, 3.0, 1.5, 4.0], name="rough")
    others = [WELL.model_copy(update={"name": f"well-{k}"}) for k in range(4)]
    assert problems(rough, *others) == {}
    assert set(problems(rough, *others[:3])) == {"unstable"}


def test_overfitting_of_watched_and_unwatched_trainings() -> None:
    watched = net([1.0, 0.5, 0.2, 0.1], [1.0, 0.7, 0.9, 1.1])
    assert problems(watched)["overfitting"].figures["overfitting"] == pytest.approx(1 - 0.1 / 1.1)
    small = net([0.1, 0.05, 0.01, 0.005], [0.1, 0.06, 0.07, 0.08])
    assert problems(small) == {}, "a loss of .08 is nothing to mend"
    unwatched = net([1.0, 0.5, 0.1], metrics={"log_loss": 2.0})
    assert problems(unwatched)["overfitting"].figures["held_out_loss"] == 2.0
    assert problems(net([1.0, 0.5, 0.1], metrics={"log_loss": 0.15})) == {}


def test_epochs_that_ran_out() -> None:
    falling = [1 - 0.1 * k for k in range(6)]
    assert "unfinished" in problems(net(falling, falling, stop_reason="all 6 epochs done"))
    rested = [1.0, 0.5, 0.4999, 0.4998, 0.4997, 0.4996]
    assert problems(net(rested, rested, stop_reason="all 6 epochs done")) == {}
    assert problems(net(falling, falling)) == {}


def modality(name: str, strength: float, increase: float, num_rows: int = 400) -> ModalityEvidence:
    error = math.sqrt((num_rows + 1) / (3 * (num_rows / 2) ** 2))
    shuffled = Importance(subject=name, loss_increase=increase, std_error=0.01, num_rows=num_rows)
    alone = Association(strength=strength, std_error=error, num_rows=num_rows)
    return ModalityEvidence(name=name, association=alone, importances=(shuffled,))


def test_noise_tells_nothing_alone_and_is_not_missed() -> None:
    found = problems(modalities=(modality("a", 0.8, 0.5), modality("hum", 0.02, 0.005)))["noise_modality"]
    assert (found.modalities, found.kept) == (("hum",), ("a",))


@pytest.mark.parametrize(
    "innocent",
    [
        modality("joint", 0.02, 0.3),  # tells something only together with another
        modality("copy", 0.8, 0.0),  # another stands in for it
        modality("few", 0.02, 0.005, num_rows=30),  # nobody can know
        modality("new", 0.0, 0.0).model_copy(update={"association": None}),
        modality("only", 0.0, 0.0).model_copy(update={"importances": ()}),
    ],
    ids=lambda one: one.name,
)
def test_what_may_tell_something_is_not_called_noise(innocent: ModalityEvidence) -> None:
    assert problems(modalities=(modality("a", 0.8, 0.5), innocent)) == {}


def test_all_of_them_noise_is_no_reason_to_drop_all() -> None:
    assert problems(modalities=(modality("a", 0.02, 0.0), modality("b", 0.01, 0.0))) == {}


def test_learners_that_lean_on_one_modality() -> None:
    def beside(shortfall: float, std_error: float, learner: str = "net") -> CrossModalEvidence:
        return CrossModalEvidence(
            learner=learner, shown=("b",), rival="r", shortfall=shortfall, std_error=std_error, num_rows=90
        )

    assert problems(cross_modal=(beside(0.3, 0.05),))["poor_cross_modal"].learners == ("net",)
    assert problems(cross_modal=(beside(0.3, 0.2), beside(0.01, 0.001))) == {}


def test_a_test_score_below_what_chance_explains() -> None:
    def seen(test: float, rows: int) -> GeneralisationEvidence:
        return GeneralisationEvidence(learner="a", out_of_bag=0.9, out_of_bag_rows=rows, test=test, test_rows=rows)

    found = problems(generalisation=(seen(0.75, 400),))["poor_generalisation"]
    assert found.figures["std_error"] == pytest.approx(math.sqrt((0.09 + 0.1875) / 400))
    assert problems(generalisation=(seen(0.75, 20),)) == {}
    assert problems(generalisation=(seen(0.95, 400),)) == {}


def test_a_run_that_took_too_long_names_its_slowest() -> None:
    slow = WELL.model_copy(update={"seconds": 50.0})
    found = problems(slow, limits=RunLimits(seconds=30), seconds=60.0)["slow"]
    assert "bag-00/tabular_mlp took 50.0 s" in found.evidence
    assert found.figures["limit_seconds"] == 30
