import numpy as np
import pytest
import torch

from training_core.data.streams.collate import (
    LanguageModelling,
    Multimodal,
    Seq2Seq,
    SequenceClassification,
    Vision,
)
from training_core.errors import DataError
from training_core.schema import Batch, DataSpec, ModalitySpec, TaskSpec

SPEC = DataSpec(
    modalities=(
        ModalitySpec(name="vec", kind="vector", shape=(2,)),
        ModalitySpec(name="words", kind="text", shape=(3,), vocabulary_size=9),
    ),
    task=TaskSpec.regression(("y",)),
)


def target_of(batch: Batch) -> list:
    assert batch.target is not None
    return batch.target.tolist()


def test_language_modelling_pads_and_labels_with_the_ids_themselves() -> None:
    batch = LanguageModelling(pad_id=9)([[5, 6, 7], np.array([8]), {"input_ids": [9, 9]}])
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert target_of(batch) == [[5, 6, 7], [8, -100, -100], [9, 9, -100]], (
        "an id that happens to be the padding's counts"
    )
    assert batch.inputs["input_ids"].dtype == torch.int64
    assert batch.available.tolist() == [[True]] * 3
    assert len(batch) == 3


def test_sequences_are_cut_and_padded_to_what_is_asked_for() -> None:
    batch = LanguageModelling(max_length=5, multiple_of=4)([[1, 2, 3, 4, 5, 6, 7], [1]])
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3, 4, 5, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [5, 1]
    assert LanguageModelling()([[], []]).inputs["input_ids"].tolist() == [[0], [0]]


def test_the_loss_of_a_padded_batch_is_that_of_its_tokens() -> None:
    """Cross-entropy with the labels of the batch ignores exactly the padding."""
    batch = LanguageModelling()([[1, 2, 3], [4]])
    logits = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    assert batch.target is not None
    found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.target.flatten())
    expected = -logits.log_softmax(-1)[[0, 0, 0, 1], [0, 1, 2, 0], [1, 2, 3, 4]].mean()
    torch.testing.assert_close(found, expected)


def test_classification_of_sequences_has_one_label_each() -> None:
    batch = SequenceClassification()([{"input_ids": [3, 4], "label": 1}, {"input_ids": [5], "label": 0}])
    assert batch.inputs["input_ids"].tolist() == [[3, 4], [5, 0]]
    assert target_of(batch) == [1, 0]
    several = SequenceClassification()([{"input_ids": [1], "label": [0, 1]}])
    assert several.target is not None
    assert several.target.dtype == torch.float32


def test_seq2seq_shifts_the_answers_right_for_the_decoder() -> None:
    items = [{"input_ids": [1, 2, 3], "labels": [7, 8]}, {"input_ids": [4], "labels": [9, 6, 5]}]
    batch = Seq2Seq(pad_id=0, start_id=2)(items)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[2, 7, 8], [2, 9, 6]]
    assert target_of(batch) == [[7, 8, -100], [9, 6, 5]]
    assert Seq2Seq(pad_id=3)(items).inputs["decoder_input_ids"][:, 0].tolist() == [3, 3]


def test_images_come_as_floats_between_0_and_1() -> None:
    photo = np.array([[[0, 255], [51, 102]]], np.uint8)
    batch = Vision()([{"image": photo, "label": 2}, {"image": photo, "label": 0}])
    torch.testing.assert_close(batch.inputs["image"][0], torch.tensor([[[0.0, 1.0], [0.2, 0.4]]]))
    assert target_of(batch) == [2, 0]
    floats = Vision()([{"image": photo / 255.0}])
    torch.testing.assert_close(floats.inputs["image"][0], batch.inputs["image"][0])
    assert floats.target is None


def test_images_are_standardised_per_channel() -> None:
    photo = np.stack([np.full((2, 2), 0.5), np.full((2, 2), 1.0)])
    batch = Vision(mean=(0.5, 0.2), std=(0.1, 0.4))([{"image": photo}])
    torch.testing.assert_close(batch.inputs["image"][0, :, 0, 0], torch.tensor([0.0, 2.0]))


def test_an_absent_modality_is_zeros_and_a_false() -> None:
    items = [
        {"vec": np.array([1.0, 2.0]), "words": np.array([1, 2, 0]), "target": [3.5], "weight": 2},
        {"vec": None, "words": np.array([4, 5, 6]), "target": [4.5], "weight": 1},
        {"vec": [7.0, 8.0], "target": [5.5], "weight": 1},
    ]
    batch = Multimodal(SPEC)(items)
    assert batch.inputs["vec"].tolist() == [[1.0, 2.0], [0.0, 0.0], [7.0, 8.0]]
    assert batch.inputs["words"].tolist() == [[1, 2, 0], [4, 5, 6], [0, 0, 0]]
    assert batch.inputs["words"].dtype == torch.int64
    assert batch.available.tolist() == [[True, True], [False, True], [True, False]]
    assert target_of(batch) == [[3.5], [4.5], [5.5]]
    assert batch.weight is not None
    assert batch.weight.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("collate", "items", "message"),
    [
        (LanguageModelling(), [{"ids": [1]}], "an item has no 'input_ids'; it has ids"),
        (LanguageModelling(), [[0.5]], "list of whole numbers; got float64"),
        (LanguageModelling(), [[[1, 2]]], r"of shape \(1, 2\)"),
        (SequenceClassification(), [{"input_ids": [1]}], "no 'label'"),
        (Vision(), [{"image": np.zeros((1, 2, 2))}, {"image": np.zeros((1, 3, 2))}], "all must have one shape"),
        (Vision(), [{"image": np.full((1, 2, 2), 7.0)}], r"from 7 to 7; give floats in \[0, 1\]"),
        (Multimodal(SPEC), [{"vec": np.zeros(3)}], r"'vec' has shape \(3,\), expected \(2,\)"),
    ],
)
def test_items_that_do_not_fit_are_refused(collate, items, message: str) -> None:
    with pytest.raises(DataError, match=message):
        collate(items)
