import pytest

from training_core.data.splitting.bags import Bag, BagsConfig, make_bags
from training_core.errors import ConfigError
from training_core.learners import LearnerConfig, LearnerSettings, LinearConfig
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, TaskSpec
from training_core.selection.choice import Choice, SelectionConfig, choose_learners
from training_core.selection.cost_model import RATES, predict_cost
from training_core.variants import kinds

SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="photo", kind="image", shape=(1, 8, 8)),
        ModalitySpec(name="vec", kind="vector", shape=(30,)),
        ModalitySpec(name="words", kind="text", columns=(ColumnSpec(name="body"),)),
    ),
    task=TaskSpec.classification("abc"),
)
SETTINGS = LearnerSettings()


def bags(num_bags=12):
    return make_bags(BagsConfig(num_bags=num_bags), SPEC, seed=0)


def choose(config=None, chosen_bags=None, settings=SETTINGS, num_rows=1000):
    return choose_learners(chosen_bags or bags(), SPEC, num_rows, 50, settings, config or SelectionConfig())


def test_every_bag_gets_learners_of_different_kinds_that_can_take_it():
    choices = choose()
    for bag in bags():
        mine = [choice.learner for choice in choices if choice.bag == bag.name]
        assert 1 <= len(mine) <= 2
        assert len({learner.kind for learner in mine}) == len(mine)
        assert all(learner.supports(SPEC.select(bag.modalities)) is None for learner in mine)


def test_the_same_arguments_give_the_same_choices():
    assert choose() == choose()


def test_the_ensemble_mixes_kinds_and_families():
    chosen = [choice.learner for choice in choose()]
    assert len({learner.kind for learner in chosen}) >= 4
    assert {learner.family for learner in chosen} == {"net", "estimator"}


@pytest.mark.parametrize("other", ["accuracy", "memory", "balanced"])
def test_speed_chooses_the_quickest_learners(other):
    def seconds(strategy):
        return sum(choice.predicted_seconds for choice in choose(SelectionConfig(strategy=strategy)))

    assert seconds("speed") <= seconds(other)


def test_memory_chooses_the_smallest_learners():
    def size(strategy):
        return sum(choice.predicted_bytes for choice in choose(SelectionConfig(strategy=strategy), num_rows=100_000))

    assert size("memory") <= min(size("accuracy"), size("speed"))


def test_only_included_kinds_are_chosen():
    choices = choose(SelectionConfig(include=("linear", "tfidf_linear")))
    assert {choice.learner.kind for choice in choices} <= {"linear", "tfidf_linear"}


def test_a_bag_no_learner_can_take_is_refused_with_its_modalities_and_the_reasons():
    with pytest.raises(ConfigError, match=r"words \(text\); image_cnn: 'vec' is of kind vector"):
        choose(SelectionConfig(include=("image_cnn",)))


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown kind of learner 'forest'; choose from tabular_mlp"):
        SelectionConfig.parse({"include": ["forest"]}, "run.yaml")


def test_settings_reach_the_chosen_learner():
    settings = LearnerSettings(linear=LinearConfig(strength=0.5))
    (first, *_) = choose(
        SelectionConfig(include=("linear", "tfidf_linear")), settings=settings, chosen_bags=[vec_bag()]
    )
    assert first.learner == LinearConfig(strength=0.5)


def vec_bag(feature_fraction=1.0):
    return Bag(
        name="bag-00",
        modalities=("vec",),
        sampling="subsample",
        row_fraction=0.8,
        feature_fraction=feature_fraction,
        row_seed=2,
        seed=1,
    )


def test_a_bag_with_fewer_columns_is_predicted_to_cost_less():
    config = SelectionConfig(include=("linear",))
    whole, part = (choose(config, [vec_bag(fraction)])[0].predicted_seconds for fraction in (1.0, 0.3))
    assert part < whole


def test_every_choice_gives_its_reason_and_what_it_would_take():
    for choice in choose():
        assert choice.reason.startswith(choice.learner.kind) and choice.reason.endswith(".")
        assert choice.predicted_seconds > 0 and choice.predicted_bytes > 0
        assert choice.runner_up != choice.learner.kind
    (alone,) = choose(SelectionConfig(include=("linear",)), [vec_bag()])
    assert "only kind" in alone.reason and alone.runner_up is None


def test_a_choice_survives_json():
    choice = choose()[0]
    assert Choice.model_validate_json(choice.to_json()) == choice


def test_every_kind_was_measured_and_has_settings():
    assert set(RATES) == set(kinds(LearnerConfig)) == set(LearnerSettings.model_fields)


def test_more_rows_are_predicted_to_take_longer():
    few, many = (predict_cost(LinearConfig(), SPEC.select(["vec"]), num_rows, 10) for num_rows in (1000, 100_000))
    assert many.seconds > 2 * few.seconds
    assert many.bytes > few.bytes


def test_a_bag_gets_different_methods_while_there_are_others():
    for choices in (choose(), choose(SelectionConfig(learners_per_bag=3, strategy="accuracy"))):
        for bag in bags():
            methods = [c.learner.method or c.learner.kind for c in choices if c.bag == bag.name]
            assert len(set(methods)) == len(methods)
    twins = choose(SelectionConfig(include=("hist_boosting", "lightgbm")), [vec_bag()])
    assert {choice.learner.kind for choice in twins} == {"hist_boosting", "lightgbm"}  # no other is left


def test_kinds_of_one_method_take_turns_and_count_together():
    same = [vec_bag().model_copy(update={"name": f"bag-{i}", "row_seed": i}) for i in range(8)]
    config = SelectionConfig(
        learners_per_bag=1, strategy="accuracy", include=("hist_boosting", "lightgbm", "extra_trees")
    )
    choices = choose(config, same)
    kinds_used = [choice.learner.kind for choice in choices]
    assert kinds_used.count("extra_trees") == 4  # not a third: the other two make like mistakes
    assert kinds_used.count("hist_boosting") == kinds_used.count("lightgbm") == 2
    assert any("boosted trees were used least" in choice.reason for choice in choices)
    assert any("and was used least" in choice.reason for choice in choices)


def test_bags_of_the_same_rows_and_columns_get_no_learner_that_would_say_the_same():
    same = [vec_bag().model_copy(update={"name": f"bag-{i}", "seed": i}) for i in range(6)]
    config = SelectionConfig(learners_per_bag=1, include=("linear", "kernel_ridge", "extra_trees"))
    assert [choice.learner.kind for choice in choose(config, same)].count("linear") == 1
    assert [choice.learner.kind for choice in choose(config, same)].count("extra_trees") == 4  # draws its own rows
    fewer = [bag.model_copy(update={"feature_fraction": 0.5}) for bag in same]
    assert [choice.learner.kind for choice in choose(config, fewer)].count("linear") == 2


def test_a_kind_that_takes_many_times_as_long_is_not_trained_twice_on_the_same_modalities():
    again = [
        Bag.model_validate({**vec_bag().model_dump(), "name": f"bag-{i}", "modalities": ("words",)}) for i in range(4)
    ]
    include = ("tfidf_linear", "text_net")
    config, accurate = (SelectionConfig(strategy=name, include=include) for name in ("balanced", "accuracy"))
    many = choose(config, again, num_rows=50_000)
    assert [choice.learner.kind for choice in many].count("text_net") == 1
    assert {choice.bag for choice in many} == {"bag-0"}  # the others could only say the same, or take very long
    assert [c.learner.kind for c in choose(config, again, num_rows=500)].count("text_net") == 4
    assert [c.learner.kind for c in choose(accurate, again, num_rows=50_000)].count("text_net") == 4
