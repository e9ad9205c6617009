"""What is changed for each diagnosis, and that what is suggested can be run."""

import pytest

from training_core.campaigns.advice.remedies import advise, apply_changes, suggest_config, without_denoising
from training_core.campaigns.run_config import RunConfig
from training_core.errors import ConfigError
from training_core.evaluation.diagnostics import Diagnosis, Problem


def diagnosis(problem: Problem, **given: object) -> Diagnosis:
    return Diagnosis.model_validate({"problem": problem, "evidence": "seen", **given})


def test_a_run_that_is_well_stays_the_same_object() -> None:
    run = RunConfig(dataset="shoes")
    assert suggest_config(run, []) is run


def test_what_was_set_stays_set_and_the_preset_too() -> None:
    run = RunConfig.load(dataset="shoes", preset="quick", training={"lr": 0.5, "batch_size": 64})
    suggested = suggest_config(run, [diagnosis("diverged")])
    assert suggested.training.lr == 1e-3
    assert (suggested.training.batch_size, suggested.training.epochs, suggested.bags.num_bags) == (64, 30, 6)
    assert suggested.preset == "quick"


def test_a_setting_is_changed_once_by_what_cost_most() -> None:
    run = RunConfig(dataset="shoes")
    first, second = advise(run, [diagnosis("diverged"), diagnosis("unstable")])
    assert [change.key for change in first.changes] == ["training.lr"]
    assert "training.lr" not in [change.key for change in second.changes]
    assert first.changes[0].spelled() == "training.lr: 0.001 -> 0.0001"


def test_the_weight_of_denoising_is_worked_out_from_its_share() -> None:
    run = RunConfig.load(dataset="shoes", denoising={"enabled": True, "weight": 6.0})
    suggested = suggest_config(run, [diagnosis("denoising_dominates", figures={"denoising_share": 0.9})])
    assert suggested.denoising.weight == pytest.approx(6.0 * (1 / 3) / 9, rel=0.02)


def test_objectives_that_taught_nothing_go_and_with_the_last_one_denoising() -> None:
    run = RunConfig.load(dataset="shoes", denoising={"enabled": True, "objectives": ["alignment", "consistency"]})
    left = suggest_config(run, [diagnosis("denoising_stalls", objectives=("alignment",))])
    assert (left.denoising.enabled, left.denoising.objectives) == (True, ("consistency",))
    none = suggest_config(run, [diagnosis("denoising_stalls", objectives=("alignment", "consistency"))])
    assert not none.denoising.enabled


def test_stages_go_when_what_they_name_goes() -> None:
    stages = [{"epochs": 3, "objectives": ["alignment"]}]
    settings = {"enabled": True, "strategy": "curriculum", "objectives": ["alignment", "consistency"], "stages": stages}
    run = RunConfig.load(dataset="shoes", denoising=settings)
    assert suggest_config(run, [diagnosis("denoising_stalls", objectives=("alignment",))]).denoising.stages == ()


def test_dropout_goes_up_for_the_kinds_that_overfitted() -> None:
    run = RunConfig(dataset="shoes")
    suggested = suggest_config(run, [diagnosis("overfitting", learners=("bag-00/fusion_net#2", "bag-01/linear"))])
    assert suggested.fusion_net.dropout == 0.3
    assert suggested.tabular_mlp == run.tabular_mlp
    assert (suggested.training.weight_decay, suggested.training.patience) == (1e-3, 8)


def test_noise_is_left_out_by_name() -> None:
    found = diagnosis("noise_modality", modalities=("hum",), kept=("left", "right"))
    assert suggest_config(RunConfig(dataset="shoes"), [found]).modalities == ("left", "right")


def test_memory_is_saved_and_steps_stay_as_large() -> None:
    run = RunConfig.load(dataset="shoes", training={"batch_size": 64, "accumulation": 2})
    found = diagnosis("memory", figures={"peak_bytes": 3e9, "limit_bytes": 1e9})
    suggested = suggest_config(run, [found])
    assert (suggested.training.batch_size, suggested.training.accumulation) == (16, 8)
    assert suggested.budget.workers is None
    killed = suggest_config(run, [diagnosis("memory", figures={"peak_bytes": 3e9})])
    assert killed.budget.workers == 1


@pytest.mark.parametrize(
    ("problem", "figures"),
    [
        ("unstable", {}),
        ("unfinished", {}),
        ("poor_cross_modal", {}),
        ("poor_generalisation", {}),
        ("slow", {"seconds": 90.0, "limit_seconds": 30.0}),
    ],
)
def test_every_other_problem_has_a_remedy_that_can_be_run(problem: Problem, figures: dict[str, float]) -> None:
    run = RunConfig(dataset="shoes")
    (advice,) = advise(run, [diagnosis(problem, figures=figures)])
    assert advice.changes
    assert all(change.why and change.before != change.after for change in advice.changes)
    assert apply_changes(run, advice.changes) != run


def test_a_change_that_makes_no_sense_is_refused() -> None:
    (advice,) = advise(RunConfig(dataset="shoes"), [diagnosis("unfinished")])
    wrong = advice.changes[0].model_copy(update={"after": -1})
    with pytest.raises(ConfigError, match=r"the suggested run: 'training\.epochs' is -1"):
        apply_changes(RunConfig(dataset="shoes"), [wrong])


def test_the_run_to_compare_denoising_with_differs_in_nothing_else() -> None:
    run = RunConfig.load(dataset="shoes", denoising={"enabled": True}, seed=3)
    plain = without_denoising(run)
    assert not plain.denoising.enabled
    assert plain.model_copy(update={"denoising": run.denoising}) == run
