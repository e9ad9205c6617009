"""Tasks: their factories, what contradicts itself, and content hashes that stay what they were."""

import pytest
from pydantic import ValidationError

from training_core.schema import DataSpec, ModalitySpec, TaskSpec


def test_factories_take_names_or_their_number() -> None:
    assert TaskSpec.classification(3).classes == ("0", "1", "2") == TaskSpec.classification("012").classes
    assert TaskSpec.multilabel(2) == TaskSpec.multilabel(["0", "1"])
    assert TaskSpec.regression(2).targets == ("0", "1") and TaskSpec.regression().targets == ("target",)
    assert TaskSpec.language_modeling(["a", "b"]).unit == "next_token"
    assert TaskSpec.segmentation(2).unit == "pixel" and TaskSpec.segmentation(2).num_outputs == 2


def test_what_is_stored_of_a_task_of_samples_is_what_it_always_was() -> None:
    task = TaskSpec.classification("ab")
    assert task.to_json() == '{"classes":["a","b"],"kind":"classification","targets":[]}'
    assert task.content_hash() == "a2ba28b01fd2ee97e8b62c89b3b848c5aa6517df1b1025f04fe19d9ace48f9d1"
    spec = DataSpec(modalities=(ModalitySpec(name="x", kind="vector", shape=(1,)),), task=task)
    assert "unit" not in spec.to_json() and DataSpec.model_validate_json(spec.to_json()) == spec


def test_a_task_of_positions_survives_json() -> None:
    for task in (TaskSpec.language_modeling(5), TaskSpec.segmentation("ab")):
        assert TaskSpec.model_validate_json(task.to_json()) == task


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "regression", "targets": ("a",), "unit": "pixel"},
        {"kind": "multilabel", "classes": ("a",), "unit": "next_token"},
        {"kind": "classification", "classes": ("a",)},
        {"kind": "classification", "classes": ("a", "b"), "unit": "word"},
    ],
)
def test_tasks_that_contradict_themselves_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TaskSpec.model_validate(fields)
