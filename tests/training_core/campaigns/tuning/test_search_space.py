"""What is searched is what the fields declare and the run says otherwise; values go into a run and come back."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from training_core.campaigns.run_config import RunConfig
from training_core.campaigns.tuning.space import (
    Dimension,
    choose,
    curves_are_comparable,
    params_of,
    run_yaml,
    space_of,
    tuned_modalities,
    with_params,
)
from training_core.errors import ConfigError
from training_core.quantities import SearchChoices, SearchRange
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec

LEFT = ModalitySpec(name="left", kind="vector", shape=(5,))
RIGHT = ModalitySpec(name="right", kind="vector", shape=(3,))
PHOTO = ModalitySpec(name="photo", kind="image", shape=(1, 8, 8))
NOTE = ModalitySpec(name="note", kind="text", columns=(ColumnSpec(name="note"),))
TARGETS = ("learner", "ensemble", "combination")


def spec_of(*modalities: ModalitySpec, task: TaskSpec | None = None) -> DataSpec:
    return DataSpec(modalities=modalities, task=task or TaskSpec.classification(("ash", "elm")))


def run_of(tuning: dict[str, Any] | None = None, **settings: Any) -> RunConfig:
    return RunConfig.load(dataset="trees", tuning=tuning or {}, **settings)


def searched(
    tuning: dict[str, Any] | None = None, spec: DataSpec | None = None, **settings: Any
) -> dict[str, Dimension]:
    space = space_of(run_of(tuning, **settings), spec or spec_of(LEFT, RIGHT))
    return {dimension.path: dimension for dimension in space}


def drawn(space: tuple[Dimension, ...], seed: int) -> dict[str, Any]:
    """A trial at random, as any sampler might choose it."""
    draws = Random(seed)

    def pick(dimension: Dimension) -> Any:
        if dimension.choices:
            return draws.choice(dimension.choices)
        assert dimension.low is not None and dimension.high is not None
        return dimension.nearest(draws.uniform(dimension.low, dimension.high))

    return choose(space, pick)


def test_a_learner_has_its_own_fields_and_those_of_training() -> None:
    space = searched()
    assert len(space) >= 20
    assert {path.partition(".")[0] for path in space} == {"fusion_net", "training", "denoising"}
    lr = space["training.lr"]
    assert (lr.kind, lr.low, lr.high, lr.log, lr.when) == ("float", 1e-4, 1e-2, True, ())
    blocks = space["fusion_net.num_blocks"]
    assert (blocks.kind, blocks.low, blocks.high) == ("int", 1, 3) and isinstance(blocks.high, int)
    assert space["training.schedule"].choices[:2] == ("none", "cosine_restarts")


def test_an_estimator_has_no_fields_of_training() -> None:
    assert set(searched({"learner": "hist_boosting"})) == {"hist_boosting.learning_rate", "hist_boosting.max_leaves"}


def test_fields_that_mean_nothing_on_the_data_are_not_searched() -> None:
    one = searched(spec=spec_of(LEFT))
    assert not any(path.startswith("denoising.") or "modality_dropout" in path for path in one)
    assert "training.label_smoothing" not in searched(spec=spec_of(LEFT, RIGHT, task=TaskSpec.regression()))
    boosting = {"learner": "lightgbm"}
    assert "lightgbm.text.analyzer" not in searched(boosting)
    assert "lightgbm.text.analyzer" in searched(boosting, spec_of(LEFT, NOTE))
    assert "bags.feature_fraction" not in searched({"target": "ensemble"}, spec_of(PHOTO))


def test_a_tuned_learner_is_trained_on_what_it_can_take() -> None:
    data = spec_of(LEFT, PHOTO, NOTE)
    assert tuned_modalities(run_of(), data) == ("left", "photo", "note")
    assert tuned_modalities(run_of({"learner": "image_cnn"}), data) == ("photo",)
    assert tuned_modalities(run_of({"learner": "linear"}, modalities=("photo",)), data) == ("photo",)
    with pytest.raises(ConfigError, match=r"tuning.learner: image_cnn cannot learn left: 'left' is of kind vector"):
        space_of(run_of({"learner": "image_cnn"}), spec_of(LEFT))


def test_fields_follow_those_that_switch_them_on() -> None:
    space = space_of(run_of(), spec_of(LEFT, RIGHT))
    off = choose(space, lambda d: False if d.path == "denoising.enabled" else d.ends[0])
    assert [path for path in off if path.startswith("denoising.")] == ["denoising.enabled"]

    def aligned(dimension: Dimension) -> Any:
        return {"denoising.enabled": True, "denoising.objectives": '["alignment"]'}.get(
            dimension.path, dimension.ends[0]
        )

    assert {"denoising.weight", "denoising.temperature"} <= set(choose(space, aligned))
    on = choose(space, lambda d: True if d.path == "denoising.enabled" else d.ends[0])
    assert "denoising.weight" in on and "denoising.temperature" not in on  # consistency comes first, and has none


def test_a_switch_that_is_not_searched_decides_by_its_value() -> None:
    fixed = {"space": {"denoising.enabled": None}}
    assert not any(path.startswith("denoising.") for path in searched(fixed))
    space = searched(fixed, denoising={"enabled": True})
    assert "denoising.enabled" not in space and space["denoising.weight"].when == ()


def test_kinds_of_an_ensemble_bring_their_fields_with_them() -> None:
    space = space_of(run_of({"target": "ensemble"}), spec_of(LEFT, NOTE))
    kinds = {d.path.rpartition(".")[2] for d in space if d.path.startswith("learners.include.")}
    assert {"fusion_net", "linear", "text_net"} <= kinds and not kinds & {"image_cnn", "sequence_net"}
    without = choose(space, lambda d: False if d.path.startswith("learners.include.") else d.ends[0])
    stay = set(with_params(run_of(), without).learners.include)
    # A kind that takes both modalities stays; where it is no net, nobody reads how nets are trained.
    both = spec_of(LEFT, NOTE)
    assert not stay & kinds and any(getattr(run_of(), kind).supports(both) is None for kind in stay)
    assert not any(path.startswith(("fusion_net.", "training.", "denoising.")) for path in without)
    nets = {**without, "learners.include.tabular_mlp": True}
    active = {d.path for d in space if d.is_active(nets)}
    assert {"tabular_mlp.width", "training.lr", "learners.net_copies"} <= active and "fusion_net.width" not in active
    assert "denoising.enabled" not in active  # a dense net has no latents


def test_kinds_stay_within_those_that_the_run_allows() -> None:
    tuning = {"target": "ensemble"}
    space = searched(tuning, learners={"include": ("linear", "fusion_net", "image_cnn")})
    assert [path for path in space if path.startswith("learners.include.")] == ["learners.include.fusion_net"]
    alone = searched(tuning, learners={"include": ("fusion_net",)})
    assert not any(path.startswith("learners.include.") for path in alone)
    assert alone["training.lr"].when == ()
    kept = searched({**tuning, "space": {"learners.include": None}})
    assert not any(path.startswith("learners.include.") for path in kept) and kept["fusion_net.width"].when == ()


def test_the_combination_is_searched_by_itself() -> None:
    space = searched({"target": "combination"})
    assert {path.partition(".")[0] for path in space} == {"combination"}
    assert space["combination.max_rounds"].when[0].values == ("greedy",)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("preset", ["tiny", "quick", "balanced", "best"])
def test_a_search_can_begin_at_the_run_itself(target: str, preset: str) -> None:
    run = run_of({"target": target}, preset=preset)
    space = space_of(run, spec_of(LEFT, RIGHT, NOTE))
    params = params_of(run, space)
    assert with_params(run, params) == run
    assert all(dimension.nearest(params[dimension.path]) == params[dimension.path] for dimension in space
               if dimension.path in params)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_values_go_into_a_run_and_come_back(target: str) -> None:
    run = run_of({"target": target})
    space = space_of(run, spec_of(LEFT, RIGHT, NOTE))
    for seed in range(20):
        params = drawn(space, seed)
        changed = with_params(run, params)
        back = params_of(changed, space)
        assert {path: back[path] for path in params} == params
        assert all(type(back[path]) is type(params[path]) for path in params)


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_file_reads_back_as_the_trial(target: str, tmp_path: Path) -> None:
    run = run_of({"target": target, "trials": 7}, preset="quick", tune=True, seed=3)
    space = space_of(run, spec_of(LEFT, RIGHT, NOTE))
    for seed in range(10):
        params = drawn(space, seed)
        (tmp_path / "best.yaml").write_text(run_yaml(run, params, "Trial 3 of a study.\nIts loss is 0.1."))
        read = RunConfig.load(tmp_path / "best.yaml")
        assert read == with_params(run, params).model_copy(
            update={"tune": False, "tuning": RunConfig(dataset="x").tuning}
        )


def test_a_run_file_holds_only_what_differs() -> None:
    text = run_yaml(run_of(tune=True), {"training.lr": 1e-5, "denoising.objectives": '["alignment"]'}, "found")
    assert text == (
        "# found\ndataset: trees\ntraining:\n  lr: 1.0e-05\ndenoising:\n  objectives:\n  - alignment\n"
    )  # fmt: skip


def test_a_run_file_keeps_what_setting_another_field_would_change() -> None:
    # `sampling: folds` alone would set five folds.
    text = run_yaml(run_of(), {"bags.sampling": "folds"})
    assert yaml.safe_load(text)["bags"] == {"sampling": "folds", "num_row_draws": 2}


def test_a_source_is_found_from_wherever_the_run_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunConfig(dataset="data/source.yaml")
    assert yaml.safe_load(run_yaml(run, {}))["dataset"] == str(tmp_path / "data" / "source.yaml")


def test_a_run_outside_a_range_widens_it() -> None:
    assert searched(training={"lr": 0.1})["training.lr"].high == 0.1
    assert searched(training={"lr": 2e-5})["training.lr"].low == 2e-5
    decay = searched(training={"weight_decay": 0.0})["training.weight_decay"]
    assert (decay.low, decay.log) == (0.0, False)  # no logarithmic range has 0
    assert searched(training={"batch_size": 24})["training.batch_size"].choices == (16, 32, 64, 128, 24)
    both = searched(denoising={"enabled": True, "objectives": ("alignment", "prediction")})
    assert both["denoising.objectives"].choices[-1] == '["alignment","prediction"]'
    assert both["denoising.temperature"].when[-1].values == ('["alignment"]', '["alignment","prediction"]')


def test_declared_values_the_run_cannot_have_are_left_out() -> None:
    assert searched(training={"epochs": 4})["training.warmup_epochs"].choices == (0.0, 1.0)
    assert "training.warmup_epochs" not in searched(training={"epochs": 1})
    folds = searched({"target": "ensemble"}, bags={"num_row_draws": 1})["bags.sampling"]
    assert folds.choices == ("bootstrap", "subsample")  # one draw is no folds


def test_the_run_may_say_otherwise() -> None:
    space = searched(
        {
            "space": {
                "training.lr": ["1e-5", 1e-3, "log"],  # as YAML gives 1e-5
                "training.epochs": [5, 50],
                "training.schedule": None,
                "fusion_net.width": {"choices": [16, 48]},
                "fusion_net.dropout": {"low": 0, "high": 0.4, "step": 0.1},
                "denoising": None,
            }
        }
    )
    assert (space["training.lr"].low, space["training.lr"].high) == (1e-5, 1e-3)
    assert (space["training.epochs"].kind, space["training.epochs"].high) == ("int", 50)
    assert space["fusion_net.width"].choices == (16, 48)
    assert (space["fusion_net.dropout"].low, space["fusion_net.dropout"].step) == (0.0, 0.1)
    assert "training.schedule" not in space and not any(path.startswith("denoising.") for path in space)


def test_where_the_run_lies_outside_what_is_given_the_search_begins_nearby() -> None:
    given = {"space": {"training.lr": [1e-5, 1e-4, "log"], "fusion_net.width": {"choices": [16, 48]},
                       "fusion_net.dropout": {"low": 0, "high": 0.6, "step": 0.3}}}  # fmt: skip
    run = run_of(given)
    params = params_of(run, space_of(run, spec_of(LEFT)))
    assert (params["training.lr"], params["fusion_net.width"], params["fusion_net.dropout"]) == (1e-4, 16, 0.0)
    trees = run_of({"learner": "extra_trees", "space": {"extra_trees.min_samples_leaf": [1, 25, "log"]}})
    assert params_of(trees, space_of(trees, spec_of(LEFT)))["extra_trees.min_samples_leaf"] == 5  # None before


def test_only_the_fields_that_are_named_are_searched() -> None:
    space = searched({"fields": ("training.lr", "fusion_net"), "space": {"training.epochs": [5, 50]}})
    sections = {path for path in space if not path.startswith("fusion_net.")}
    assert sections == {"training.lr", "training.epochs"} and "fusion_net.width" in space


def test_ranges_can_be_given_one_by_one_on_the_command_line() -> None:
    settings = ("tuning.space.training.lr=[1e-5, 1e-3, log]", "tuning.space.training.schedule=null",
                "tuning.space.fusion_net.width.choices=[16, 48]")  # fmt: skip
    space = space_of(RunConfig.load(None, settings, dataset="trees"), spec_of(LEFT))
    found = {dimension.path: dimension for dimension in space}
    assert found["training.lr"].low == 1e-5 and found["fusion_net.width"].choices == (16, 48)
    assert "training.schedule" not in found


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"training.lrr": [1, 2]}, r"learner fusion_net reads no field 'training.lrr'; did you mean 'training.lr'\?"),
        ({"tabular_mlp.width": None}, "reads no field 'tabular_mlp.width'; its sections are denoising, fusion_net"),
        ({"training": [1, 2]}, "'training' is a section; give ranges for its fields"),
        ({"training.lr": [0, 1, "log"]}, r"tuning.space.training.lr: a logarithmic range must begin above 0"),
        ({"training.lr": [1, 0.1]}, "a range from 1.0 to 0.1 is empty"),
        ({"training.lr": [-1, 1]}, r"tuning.space.training.lr: 'training.lr' is -1.0: input should be greater than 0"),
        ({"training.batch_size": [8.5, 64]}, "this field is a whole number; the range is from 8.5 to 64"),
        ({"training.optimizer": [1, 2]}, r"this field is not a number; say \{choices"),
        ({"training.optimizer": {"choices": ["adamw", "lio"]}}, "'training.optimizer' is 'lio': input should be"),
        ({"training.batch_size": {"choices": [16, "16"]}}, "choices are two or more different values, not 16, 16"),
        ({"fusion_net.num_heads": {"choices": [4, 5]}}, r"`width` \(64\) must be a multiple of `num_heads` \(5\)"),
        ({"training.lr": [1]}, r"'tuning.space.training.lr' is \[1\]: a range is \[low, high\]"),
        ({"training.lr": {"low": 1, "choices": [1, 2]}}, "has `low` and `high`, or `choices`, not both"),
        ({"training.lr": {}}, "a range has `low` and `high`, or `choices`"),
        (dict.fromkeys(("training", "denoising", "fusion_net")), "nothing is left to search for learner fusion_net"),
    ],
)
def test_a_range_that_cannot_be_is_refused_by_name(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        searched({"space": space})


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"learner": "fusionnet"}, "'tuning.learner' is 'fusionnet': unknown kind of learner 'fusionnet'; choose from"),
        ({"objectives": []}, "name one or several different ones of loss, score"),
        ({"objectives": ["loss", "loss"]}, "name one or several different ones of loss, score"),
        ({"pruner": "wilcoxon"}, "set `folds` to 2 or more"),
        ({"trails": 3}, r"unknown key 'tuning.trails'.*did you mean 'trials'\?"),
    ],
)
def test_settings_that_cannot_be_are_refused(tuning: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(tuning)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"training.lrr": 1}, "there is no field 'training.lrr'"),
        ({"training.lr.low": 1}, "there is no field 'training.lr.low'"),
        ({"lr": 1}, "there is no field 'lr'"),
        ({"training.lr": -1}, "'training.lr' is -1: input should be greater than 0"),
        ({"denoising.objectives": "alignment"}, r"'denoising.objectives' is 'alignment': it must be a list"),
        ({"training.warmup_epochs": 200.0}, "`warmup_epochs` is 200, but training has only 100 epochs"),
        ({"learners.include.linear": False}, "would leave out every kind of learner; keep one"),
    ],
)
def test_values_that_make_no_run_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_params(run_of(learners={"include": ("linear",)}), params)


def test_losses_of_trials_that_are_judged_differently_are_not_compared() -> None:
    spec = spec_of(LEFT)
    assert curves_are_comparable(space_of(run_of(), spec))
    weighted = run_of({"space": {"training.class_weights": {"choices": ["none", "balanced"]}}})
    assert not curves_are_comparable(space_of(weighted, spec))


def test_a_dimension_survives_json() -> None:
    for dimension in space_of(run_of({"target": "ensemble"}), spec_of(LEFT, NOTE)):
        read = Dimension.model_validate_json(dimension.to_json())
        assert read == dimension
        assert [type(end) for end in read.ends] == [type(end) for end in dimension.ends]


@pytest.mark.parametrize(
    "make",
    [
        lambda: SearchRange(1, 1),
        lambda: SearchRange(0, 1, log=True),
        lambda: SearchRange(1, 2, log=True, step=1),
        lambda: SearchRange(0, 1, step=0.3),
        lambda: SearchRange(0, 1, step=0),
        lambda: SearchChoices(1),
        lambda: SearchChoices(1, 2, 1),
        lambda: SearchRange(float("nan"), 1),
    ],
)
def test_a_range_without_sense_is_refused_where_it_is_declared(make: Any) -> None:
    with pytest.raises(ValueError):
        make()
