"""The trainer on every kind of task: classes, labels, values, pixels, tokens, adapters."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trainer_world import QUICK, TASK, blobs, net

from training_core.engine.trainer.trainer import Trainer
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError, DataError
from training_core.schema import TaskSpec


class TinyLanguageModel(nn.Module):
    """Embedding, one recurrent layer, head; answers like a Hugging Face model."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.recurrence = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, vocabulary)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        states, _ = self.recurrence(self.embedding(input_ids))
        return {"logits": self.head(states), "hidden_states": states}


def sentences(num: int, seed: int) -> list[list[int]]:
    """Of a toy grammar: subject, verb that agrees with it, object or none, end. Lengths differ."""
    draws = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        plural = int(draws.integers(2))
        sentence = [1, 2 + plural, 4 + plural]
        if draws.random() < 0.5:
            sentence += [6 + int(draws.integers(2))]
        found.append([*sentence, 8])
    return found


@pytest.mark.parametrize("as_arrays", [False, True], ids=["lists of ids", "padded arrays"])
def test_a_language_model_learns_a_grammar(as_arrays: bool) -> None:
    train, held = sentences(300, 0), sentences(80, 1)
    following = [token for sentence in held for token in sentence[1:]]
    shares = np.bincount(following) / len(following)
    unigram = -sum(share * math.log(share) for share in shares if share)
    torch.manual_seed(0)
    model = TinyLanguageModel(9)
    trainer = Trainer(model, TrainingConfig(epochs=6, lr=0.01, batch_size=16), TaskSpec.language_modeling(9))

    def padded(lists: list[list[int]]) -> dict[str, np.ndarray]:
        ids = np.array([sentence + [0] * (5 - len(sentence)) for sentence in lists])
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}

    results = trainer.train(padded(train), padded(held)) if as_arrays else trainer.train(train, held)
    curve = [loss for _, loss in results.history.curve("validation/loss")]
    assert curve[-1] < curve[0] and results.best_val_loss is not None and results.best_val_loss < unigram / 2
    verb = trainer.predict([[1, 3, 0], [1, 2, 0]])[:, 1]  # after the subject
    assert verb.shape == (2, 9) and verb[0, 5] > 0.9 and verb[1, 4] > 0.9


@pytest.mark.parametrize(("loss", "outputs"), [("huber", 1), ("quantile", 1), ("gaussian_nll", 2), ("default", 1)])
def test_values_are_learned_with_every_loss_of_values(loss: str, outputs: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.05 * torch.randn(200)
    trainer = Trainer(nn.Linear(3, outputs), TrainingConfig(epochs=60, lr=0.05, loss=loss), TaskSpec.regression(1))
    trainer.train((x, y))
    answers = trainer.predict(x)
    assert answers.shape == (200, 1) and np.abs(answers[:, 0] - y.numpy()).mean() < 0.15


def test_labels_are_learned() -> None:
    x, y = blobs()
    labels = torch.stack([y == 0, y != 2], dim=1).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    trainer = Trainer(model, QUICK.model_copy(update={"epochs": 15}), TaskSpec.multilabel(["first", "low"]))
    trainer.train((x, labels))
    assert ((trainer.predict(x) > 0.5) == (labels.numpy() > 0.5)).mean() > 0.95


def test_pixels_are_learned() -> None:
    torch.manual_seed(0)
    images = torch.randn(40, 1, 4, 4)
    labels = (images[:, 0] > 0).long()
    labels[:, 0, 0] = -100
    trainer = Trainer(nn.Conv2d(1, 2, 1), TrainingConfig(epochs=30, lr=0.1), TaskSpec.segmentation(2))
    trainer.train((images, labels))
    answers = trainer.predict(images)
    assert answers.shape == (40, 2, 4, 4)
    assert (answers.argmax(axis=1) == (images[:, 0] > 0).numpy()).mean() > 0.95


def test_adapters_learn_and_their_base_stays() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(4, 3).requires_grad_(False)
            self.adapter = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.adapter(x)

    torch.manual_seed(0)
    model = Adapted()
    before = model.base.weight.clone()
    results = Trainer(model, QUICK.model_copy(update={"loss": "peft_aware"}), TASK).train(blobs())
    assert torch.equal(model.base.weight, before)
    assert results.best_val_loss is not None and results.best_val_loss < results.history.epochs[0]["validation/loss"]
    model.base.requires_grad_(True)
    with pytest.raises(ConfigError, match="0 of 4 parameters are of the base"):
        Trainer(model, QUICK.model_copy(update={"loss": "peft_aware"}), TASK).train(blobs())


@pytest.mark.parametrize("loss", ["focal", "quantization_safe", "vision"])
def test_a_named_loss_of_classes_is_used(loss: str) -> None:
    results = Trainer(net(), QUICK.model_copy(update={"loss": loss}), TASK).train(blobs())
    other = Trainer(net(), QUICK, TASK).train(blobs())
    assert results.best_val_loss is not None and results.best_val_loss < 0.2
    assert (results.history == other.history) == (loss == "vision")


def test_a_balanced_training_is_evaluated_as_it_was_validated() -> None:
    x, y = blobs()
    rare = torch.cat([torch.arange(90), torch.arange(90, 120)[y[90:] == 0]])
    trainer = Trainer(net(), QUICK.model_copy(update={"class_weights": "balanced"}), TASK)
    results = trainer.train((x[rare], y[rare]), blobs(60))
    assert trainer.evaluate(blobs(60))["loss"] == pytest.approx(results["best_val_loss"], rel=1e-5)


def test_answers_of_different_lengths_are_not_put_together() -> None:
    trainer = Trainer(TinyLanguageModel(9), QUICK, TaskSpec.language_modeling(9))
    with pytest.raises(DataError, match="ask for rows of one length"):
        trainer.predict([[1, 2, 3]] * 256 + [[1, 2]])
