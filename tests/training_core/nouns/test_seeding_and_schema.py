"""Generators depend on their names alone; patterns and masks mean what they say."""

import numpy as np
import pytest
import torch

from training_core.errors import DataError
from training_core.schema import DataSpec, ModalitySpec, Samples, TaskSpec, pattern_key, patterns_to_judge
from training_core.seeding import derive_seed, generator, torch_generator, torch_seeded


def test_a_generator_does_not_depend_on_what_others_drew() -> None:
    alone = generator(3, "b").normal(size=5)
    generator(3, "a").normal(size=100)
    assert np.array_equal(generator(3, "b").normal(size=5), alone)


def test_names_and_roots_give_different_generators() -> None:
    seeds = {
        derive_seed(0, "ab"),
        derive_seed(0, "a", "b"),
        derive_seed(1, "ab"),
        derive_seed(0, 1),
        derive_seed(0, "1"),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_stay_what_they_are_between_versions() -> None:
    """`sha256sum` of "(0, 'bag', 3)", first 8 bytes, halved: a changed derivation would change every result."""
    assert derive_seed(0, "bag", 3) == 3197573109216727817


def test_torch_generators_repeat_and_leave_the_global_one_alone() -> None:
    first = torch.rand(3, generator=torch_generator(1, "x"))
    assert torch.equal(first, torch.rand(3, generator=torch_generator(1, "x")))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with torch_seeded(5, "y"):
        inside = torch.rand(1)
    assert torch.equal(torch.rand(1), expected)
    with torch_seeded(5, "y"):
        assert torch.equal(torch.rand(1), inside)


def test_patterns_are_enumerated_when_few_and_listed_when_many() -> None:
    assert [len(p) for p in patterns_to_judge("abc")] == [3, 2, 2, 2, 1, 1, 1]
    many = patterns_to_judge("abcdef")
    assert [len(p) for p in many] == [6] + [5] * 6 + [1] * 6
    assert patterns_to_judge("a") == [frozenset("a")]
    assert pattern_key({"c", "a"}, "abc") == "a+c"


def spec() -> DataSpec:
    return DataSpec(
        modalities=(ModalitySpec(name="v", kind="vector", shape=(3,)), ModalitySpec(name="t", kind="text")),
        task=TaskSpec.classification(["x", "y"]),
    )


def test_a_spec_is_cut_down_to_modalities_and_columns() -> None:
    cut = spec().select(["v"], {"v": (0, 2)})
    assert cut.names == ("v",)
    assert cut["v"].shape == (2,)
    with pytest.raises(DataError, match="no modality 'w'; this data has v, t"):
        spec().select(["w"])


def test_samples_follow_their_rows_columns_and_masks() -> None:
    samples = Samples(
        inputs={"v": np.arange(6.0).reshape(2, 3), "t": np.array(["a", "b"], object)},
        available={"v": np.array([True, False]), "t": np.array([True, True])},
        ids=np.array(["0", "1"], object),
        target=np.array([0, 1]),
    )
    taken = samples.take(np.array([1, 1, 0]))
    assert taken.ids.tolist() == ["1", "1", "0"]
    assert taken.available["v"].tolist() == [False, False, True]
    assert samples.select(["v"], {"v": (2,)}).inputs["v"].tolist() == [[2.0], [5.0]]
    hidden = samples.without(["t"])
    assert hidden.availability(("v", "t")).tolist() == [[True, False], [False, False]]
    assert samples.available["t"].all(), "the original is untouched"


@pytest.mark.parametrize(
    "fields", [{"kind": "classification", "classes": ("a",)}, {"kind": "multilabel"}, {"kind": "regression"}]
)
def test_a_task_without_outputs_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="task"):
        TaskSpec.model_validate(fields)
