"""Every range that a field declares holds its default, and what is searched builds and trains at all of its ends."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from learner_cases import (
    CLASSES,
    IMAGE,
    QUICK,
    SEQUENCE,
    STRINGS,
    VECTOR,
    every_learner,
    kind,
    samples_for,
    spec_for,
)
from pydantic.fields import FieldInfo

from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.dimensions import as_param, value_at
from training_core.campaigns.tuning.space import Dimension, choose, space_of, tuned_modalities, with_params
from training_core.config import Config
from training_core.data.splitting.bags import BagsConfig, bag_features, make_bags
from training_core.data.splitting.row_draws import draw_rows
from training_core.data.views import HeldSamples
from training_core.engine.alone import train_alone
from training_core.engine.prepare import LearnerRequest, prepare
from training_core.learners import LearnerConfig
from training_core.objectives.denoising.net import Denoisable
from training_core.quantities import SearchChoices, SearchOn, SearchRange, SearchWhen
from training_core.schema import DataSpec
from training_core.selection.choice import choose_learners
from training_core.selection.combination import combine_pattern
from training_core.variants import kinds

pytestmark = pytest.mark.filterwarnings("error")  # no warning may reach the screen

NUM_ROWS = 48


SPEC = DataSpec(modalities=(VECTOR, IMAGE, SEQUENCE, STRINGS), task=CLASSES)


def run_of(*fields: str, **tuning: Any) -> RunConfig:
    """A run of small learners, `fields` of which are searched."""
    training = {"epochs": 6 if "training" in fields else 2, "checkpoint_seconds": 0.0}
    return RunConfig.model_validate(
        {"dataset": "trees", "tuning": {"fields": fields, **tuning}, "training": training, **QUICK}
    )


def declared(owner: type[Config], prefix: str = "") -> Iterator[tuple[str, type[Config], FieldInfo]]:
    """(path, whose it is, field) of every field of a run that declares what to search."""
    for name, info in owner.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Config):
            yield from declared(info.annotation, f"{prefix}{name}.")
        elif any(isinstance(item, SearchRange | SearchChoices | SearchWhen | SearchOn) for item in info.metadata):
            yield f"{prefix}{name}", owner, info


DECLARED = [pytest.param(*found, id=found[0]) for found in declared(RunConfig)]


def covering(space: tuple[Dimension, ...]) -> Iterator[dict[str, Any]]:
    """Trials that together have every end of every dimension, conditional ones included."""
    waiting = {dimension.path: list(dimension.ends) for dimension in space}

    def pick(dimension: Dimension) -> Any:
        if waiting[dimension.path]:
            return waiting[dimension.path].pop(0)
        behind = [c for d in space if waiting[d.path] for c in d.when if dimension.path in c.paths]
        return behind[-1].values[0] if behind else dimension.ends[0]

    for _ in range(2 * max(len(dimension.ends) for dimension in space)):
        yield choose(space, pick)
        if not any(waiting.values()):
            return
    raise AssertionError(f"never tried: {[path for path, values in waiting.items() if values]}")


@pytest.mark.parametrize(("path", "owner", "info"), DECLARED)
def test_a_range_holds_its_default_and_nothing_that_cannot_be(path: str, owner: type[Config], info: FieldInfo) -> None:
    ranges = [item for item in info.metadata if isinstance(item, SearchRange | SearchChoices)]
    assert len(ranges) == 1, "one range or one set of choices per field"
    (found,) = ranges
    ends = found.values if isinstance(found, SearchChoices) else (found.low, found.high)
    if isinstance(found, SearchChoices):
        assert info.default in found.values
    else:
        assert found.low <= info.default <= found.high
    conditions = [item for item in info.metadata if isinstance(item, SearchWhen)]
    for condition in conditions:
        (other,) = [item for item in owner.model_fields[condition.field].metadata if isinstance(item, SearchChoices)]
        assert any(condition.values[0] in (value if isinstance(value, tuple) else (value,)) for value in other.values)
    section = path.rpartition(".")[0]
    switched_on = {f"{section}.{c.field}": as_param(_held(owner, c)) for c in conditions}
    for end in ends:
        run = with_params(RunConfig(dataset="trees"), {**switched_on, path: as_param(end)})
        assert value_at(run, path) == end


def _held(owner: type[Config], condition: SearchWhen) -> Any:
    """A value of the other field with which the condition holds."""
    value = condition.values[0]
    return (value,) if isinstance(owner.model_fields[condition.field].default, tuple) else value


def test_there_is_much_to_search_and_every_learner_has_something() -> None:
    paths = [found.id or "" for found in DECLARED]
    assert len(paths) >= 60
    assert {path.partition(".")[0] for path in paths} == {
        *kinds(LearnerConfig), "training", "denoising", "bags", "learners", "combination"
    }  # fmt: skip


@every_learner
def test_denoising_is_searched_for_nets_with_latents(config: Any) -> None:
    spec = spec_for(config, CLASSES)
    assert config.has_latents == isinstance(config.build(spec, seed=0), Denoisable)


@every_learner
def test_a_learner_trains_at_all_ends(config: Any) -> None:
    how_nets_train = ("training", "denoising") if config.has_latents else ()  # one kind of net stands for all
    modalities = ("shape", "note") if how_nets_train else ()
    run = run_of(kind(config), *how_nets_train, learner=kind(config)).model_copy(update={"modalities": modalities})
    spec = SPEC.select(tuned_modalities(run, SPEC))
    samples = samples_for(spec, NUM_ROWS)
    samples = replace(samples, available={name: np.ones(NUM_ROWS, bool) for name in spec.names})
    rows, judged = samples.take(slice(0, 32)), samples.take(slice(32, None))
    for params in covering(space_of(run, spec)):
        trial = with_params(run, params)
        request = LearnerRequest(
            getattr(trial, kind(config)), HeldSamples(rows, spec), HeldSamples(judged, spec), spec, {},
            trial.training, seed=0, denoising=trial.denoising,
        )  # fmt: skip
        answers = train_alone(prepare(request), "cpu").learner.predict(judged)
        assert answers.shape == (16, 3) and np.isfinite(answers).all(), params


def test_bags_are_drawn_at_all_ends() -> None:
    target = np.arange(60) % 3
    for params in covering(space_of(run := run_of("bags", target="ensemble"), SPEC)):
        bags = make_bags(with_params(run, params).bags, SPEC, 0, dict.fromkeys(SPEC.names, 0.3))
        for bag in bags:
            drawn = draw_rows(bag, np.arange(60), target, None)
            assert len(drawn.inside) and len(drawn.outside), params
            assert all(len(kept) for kept in bag_features(bag, SPEC).values()), params


def test_learners_are_chosen_at_all_ends() -> None:
    bags = make_bags(BagsConfig(num_bags=6), SPEC, seed=0)
    for params in covering(space_of(run := run_of("learners", target="ensemble"), SPEC)):
        trial = with_params(run, params)
        chosen = choose_learners(bags, SPEC, 160, 6, trial.learner_settings(), trial.learners)
        assert {choice.bag for choice in chosen} == {bag.name for bag in bags}, params


def test_learners_are_combined_at_all_ends() -> None:
    draws = np.random.default_rng(0)
    target = np.arange(120) % 3
    told = np.eye(3)[target] + draws.exponential(size=(4, 120, 3))
    told = np.where(draws.random((4, 120, 1)) < 0.5, told / told.sum(axis=2, keepdims=True), np.nan)
    for params in covering(space_of(run := run_of(target="combination"), SPEC)):
        found = combine_pattern(CLASSES, target, told, tuple("abcd"), with_params(run, params).combination, seed=0)
        assert sum(found.weights.values()) == pytest.approx(1.0), params
        assert found.loss is not None and np.isfinite(found.loss), params
