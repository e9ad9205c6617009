"""Settings for goals, what they are expected to take, and what is reduced where there is not enough."""

from pathlib import Path

import pytest
from factories import small_run, write_source

from training_core.campaigns.advice.estimate import DataFacts, choices_of, estimate_run, facts_of
from training_core.campaigns.advice.preflight import Resources, look_ahead, preflight
from training_core.campaigns.advice.strategy import Goal, configure_training
from training_core.campaigns.bagging import open_dataset, resolve_dataset
from training_core.campaigns.run_config import RunConfig
from training_core.errors import ConfigError
from training_core.schema import DataSpec, ModalitySpec, TaskSpec


def facts(num_rows: int = 2000, num_modalities: int = 2) -> DataFacts:
    views = tuple(ModalitySpec(name=f"view{k}", kind="vector", shape=(20,)) for k in range(num_modalities))
    return DataFacts(name="views", spec=DataSpec(modalities=views, task=TaskSpec.classification(3)), num_rows=num_rows)


PLENTY = Resources(memory_mb=1e6)


@pytest.mark.parametrize("goal", ["real_time", "accuracy_critical", "large_scale", "resource_constrained"])
def test_every_goal_gives_a_run_with_an_estimate_and_a_reason(goal: Goal) -> None:
    strategy = configure_training((), facts(), [goal])
    assert strategy.name == goal
    assert strategy.reasons[0].startswith(goal)
    assert strategy.estimated_seconds > 0 and strategy.memory_mb > 0
    assert RunConfig.model_validate_json(strategy.config.model_dump_json()) == strategy.config


def test_goals_pull_where_they_should() -> None:
    usual = configure_training((), facts(), ())
    best = configure_training((), facts(), ["accuracy_critical"])
    quick = configure_training((), facts(), ["real_time"])
    small = configure_training((), facts(), ["resource_constrained"])
    assert usual.config == RunConfig(dataset="views")
    assert best.estimate.num_learners > usual.estimate.num_learners > quick.estimate.num_learners
    assert best.config.denoising.enabled
    assert quick.estimated_seconds < best.estimated_seconds
    assert small.memory_mb <= quick.memory_mb


def test_the_goal_named_first_has_its_way() -> None:
    first = configure_training((), facts(), ["real_time", "accuracy_critical"])
    assert (first.config.preset, first.config.learners.strategy) == ("quick", "speed")
    assert first.config.denoising.enabled, "which the first goal says nothing of"
    assert any("gives way" in reason and "preset" in reason for reason in first.reasons)


def test_the_learners_asked_for_and_settings_stand_over_everything() -> None:
    strategy = configure_training(("linear",), facts(), ["real_time"], training={"epochs": 7}, seed=5)
    assert set(strategy.estimate.learners) == {"linear"}
    assert (strategy.config.training.epochs, strategy.config.training.batch_size, strategy.config.seed) == (7, 128, 5)


def test_small_data_get_small_batches_and_one_modality_no_denoising() -> None:
    strategy = configure_training((), facts(120, 1), ["accuracy_critical"])
    assert strategy.config.training.batch_size == 8
    assert not strategy.config.denoising.enabled


@pytest.mark.parametrize(
    ("goal", "num_rows", "expected"),
    [("large_scale", 2560, 256), ("large_scale", 2559, 128), ("real_time", 1279, 64), ("real_time", 60, 8)],
)
def test_a_goals_batches_shrink_no_further_than_the_rows_ask_for(goal: Goal, num_rows: int, expected: int) -> None:
    strategy = configure_training((), facts(num_rows), [goal])
    assert strategy.config.training.batch_size == expected
    said = f"there are only {num_rows} rows"
    assert any("reduced from" in reason and said in reason for reason in strategy.reasons) == (num_rows < 2560)


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown goal 'fast'; choose from real_time"):
        configure_training((), facts(), ["fast"])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="unknown kind of learner 'oracle'"):
        configure_training(("oracle",), facts())


def test_the_estimate_counts_what_would_be_chosen() -> None:
    run = RunConfig(dataset="views")
    estimate = estimate_run(run, facts())
    choices = choices_of(run, facts())
    assert estimate.num_learners == len(choices) == sum(estimate.learners.values())
    assert estimate.cpu_seconds == pytest.approx(sum(choice.predicted_seconds for choice in choices))
    few = estimate_run(RunConfig.load(dataset="views", budget={"learners": 3}), facts())
    assert few.num_learners == 3 and few.cpu_seconds < estimate.cpu_seconds
    alone = estimate_run(RunConfig.load(dataset="views", budget={"workers": 1}), facts())
    assert alone.memory_mb == pytest.approx(max(choice.predicted_bytes for choice in choices) / 1e6)


def test_a_run_that_fits_is_left_as_it_is() -> None:
    run = RunConfig(dataset="views")
    found = preflight(run, facts(), PLENTY)
    assert found.is_ready and found.config is run
    assert (found.problems, found.shortages, found.changes) == ((), (), ())


def test_too_little_memory_means_fewer_processes_first() -> None:
    run = RunConfig.load(dataset="views", budget={"workers": 8})
    one = estimate_run(run, facts()).learner_mb
    found = preflight(run, facts(), PLENTY.model_copy(update={"memory_mb": 2.5 * one}))
    assert found.is_ready and found.shortages
    assert [change.key for change in found.changes] == ["budget.workers"]
    assert found.config.budget.workers == 2


def test_too_little_time_means_less_of_everything_and_a_budget_at_last() -> None:
    run = RunConfig.load(dataset="views", preset="best", budget={"workers": 1})
    found = preflight(run, facts(), PLENTY.model_copy(update={"seconds": 60.0}))
    assert found.is_ready and found.estimate is not None
    assert found.estimate.seconds <= 60
    changed = [change.key for change in found.changes]
    assert changed[0] == "learners.strategy" and "budget.seconds" not in changed
    hurried = preflight(run, facts(), PLENTY.model_copy(update={"seconds": 5.0}))
    assert hurried.is_ready
    assert [change.key for change in hurried.changes][-2:] == ["bags.num_bags", "budget.seconds"]
    assert hurried.config.bags.num_bags == 3, "the full set and each modality"


def test_memory_for_not_even_one_learner_is_not_talked_away() -> None:
    found = preflight(RunConfig(dataset="views"), facts(), PLENTY.model_copy(update={"memory_mb": 10.0}))
    assert not found.is_ready and not found.fits
    assert "of memory would be needed" in found.shortages[0]


@pytest.mark.parametrize(
    ("settings", "num_rows", "said"),
    [
        ({"learners": {"include": ("image_cnn",)}}, 100, "no learner can take"),
        ({"modalities": ("sound",)}, 100, "no modality 'sound'"),
        ({}, 0, "no training rows"),
        ({"learners": {"include": ("linear",)}, "training": {"stages": [{"epochs": 1}]}}, 100, "no net is chosen"),
    ],
)
def test_what_cannot_be_trained_anywhere_is_a_problem(settings: dict[str, object], num_rows: int, said: str) -> None:
    found = preflight(RunConfig.load(dataset="views", **settings), facts(num_rows), PLENTY)
    assert not found.is_ready and found.estimate is None
    assert said in found.problems[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"training": {"batch_size": 4096}}, "one step per epoch"),
        ({"denoising": {"enabled": True, "modality_dropout": 0}}, "never meet a missing modality"),
        ({"denoising": {"enabled": True}, "modalities": ("view0",)}, "does nothing for a single modality"),
        ({"training": {"epochs": 5, "warmup_epochs": 5}}, "leave nothing of the 5 epochs"),
        ({"denoising": {"modalities": ("sound",)}}, "names 'sound', which the run does not use"),
    ],
)
def test_what_is_odd_is_a_warning_and_no_more(settings: dict[str, object], said: str) -> None:
    found = preflight(RunConfig.load(dataset="views", **settings), facts(), PLENTY)
    assert found.is_ready
    assert said in " ".join(found.warnings)


def test_few_rows_per_class_are_said_and_this_machine_has_something() -> None:
    assert "for 3 classes" in preflight(RunConfig(dataset="views"), facts(12), PLENTY).warnings[-1]
    here = Resources.here(seconds=60)
    assert here.memory_mb > 1 and here.seconds == 60


def test_before_a_run_what_speaks_against_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = resolve_dataset(str(write_source(tmp_path / "world", num_rows=160)), tmp_path)
    run = small_run("world", budget={"workers": 8})
    monkeypatch.setattr(Resources, "here", lambda: PLENTY)
    assert look_ahead(run, ref) == ()
    odd = small_run("world", denoising={"modalities": ("sound",)}, budget={"workers": 8})
    assert ["names 'sound'" in warning for warning in look_ahead(odd, ref)] == [True]
    one = estimate_run(run, facts_of(open_dataset(ref))).learner_mb
    monkeypatch.setattr(Resources, "here", lambda: PLENTY.model_copy(update={"memory_mb": 2.5 * one}))
    (said,) = look_ahead(run, ref)
    assert "of memory would be needed" in said and said.endswith("it would make do with budget.workers=2")
    assert look_ahead(small_run("world", budget={"workers": 8}, executor="dask"), ref) == (), "another machine's"
