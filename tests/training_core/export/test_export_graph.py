"""Every learner, and the combination of any of them, answers in a graph as it does in the library."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training_core.export.exported_learners import COLUMNS, CONFIGS, MODALITIES, TASKS, fitted, samples_of
from training_core.data.preprocessing import Preprocessor
from training_core.data.text import token_ids
from training_core.errors import ConfigError
from training_core.export.bundled.bundle_inputs import terms_of
from training_core.export.bundled.bundle_inputs import token_ids as bundle_token_ids
from training_core.export.graph.columns import TermSum
from training_core.export.graph.encoding import MemberEncoding, Raw
from training_core.export.graph.members import MemberGraph, estimator, term_lists
from training_core.export.graph.rules import Combination, Usable
from training_core.learners.text_features import TextFeatures, TextFeaturesConfig
from training_core.schema import DataSpec, Samples, TaskSpec, pattern_key, patterns_to_judge
from training_core.selection.combination import PatternWeights
from training_core.selection.conformal import ConformalRule
from training_core.selection.ensemble import Ensemble
from training_core.selection.manifest import EnsembleManifest, Member
from training_core.selection.spread import SpreadModel
from training_core.selection.stacking import Stacker


def raw_of(samples: Samples, terms: dict) -> Raw:
    tokens, pieces = {}, {}
    for modality in MODALITIES:
        if modality.kind == "text":
            texts = [str(text) for text in samples.inputs[modality.name]]
            tokens[modality.name] = torch.from_numpy(bundle_token_ids(texts, 128))
            for key in (key for key in terms if key[0] == modality.name):
                pieces[key] = tuple(torch.from_numpy(part) for part in terms_of(texts, key[1], terms[key]))
    values = {m.name: torch.from_numpy(samples.inputs[m.name]) for m in MODALITIES if m.kind != "text"}
    return Raw(values, tokens, pieces, {n: torch.from_numpy(mask) for n, mask in samples.available.items()})


def graph_answers(learner, folder, samples: Samples) -> np.ndarray:
    learner.save(folder)
    terms = {key: {t: i for i, t in enumerate(own, start=1)} for key, own in term_lists(learner, folder).items()}
    # A graph numbers the pieces that any learner knows: more than this one does.
    terms = {key: {"not known": 1} | {t: i + 1 for t, i in own.items()} for key, own in terms.items()}
    graph = MemberGraph(learner, folder, terms).eval()
    with torch.inference_mode():
        return graph(raw_of(samples, terms)).numpy()


@pytest.mark.parametrize("task", ["classification", "rating", "multilabel"])
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_learner_in_a_graph_answers_as_it_does(kind, task, tmp_path):
    learner = fitted(CONFIGS[kind], TASKS[task])
    samples = samples_of(TASKS[task], 40, seed=9)
    expected = learner.predict(samples)
    usable = np.isfinite(expected).all(axis=1)
    assert usable.sum() > 3
    np.testing.assert_allclose(graph_answers(learner, tmp_path, samples)[usable], expected[usable], rtol=0, atol=2e-6)


@pytest.mark.parametrize("task", ["two classes", "regression"])
@pytest.mark.parametrize("kind", ["linear", "tfidf_linear", "hist_boosting", "lightgbm", "extra_trees"])
def test_an_estimator_of_two_classes_or_values_answers_as_it_does(kind, task, tmp_path):
    learner = fitted(CONFIGS[kind], TASKS[task], vec=(4, 1), meta=(3, 0))
    samples = samples_of(TASKS[task], 40, seed=9)
    expected = learner.predict(samples)
    usable = np.isfinite(expected).all(axis=1)
    np.testing.assert_allclose(graph_answers(learner, tmp_path, samples)[usable], expected[usable], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["linear", "extra_trees"])
def test_an_estimator_that_saw_one_class_says_so(kind, tmp_path):
    task = TASKS["classification"]
    learner = fitted(CONFIGS[kind], task, num_rows=30)
    one = samples_of(task, 30, seed=1)
    one.target[:] = 2
    learner.model.fit(learner.preprocessor.encode(one.select(learner.modalities)))
    samples = samples_of(task, 12, seed=2)
    expected = learner.predict(samples)
    usable = np.isfinite(expected).all(axis=1)
    np.testing.assert_allclose(graph_answers(learner, tmp_path, samples)[usable], expected[usable], atol=1e-12)


def test_encoded_numbers_are_the_same_to_the_bit():
    task = TASKS["classification"]
    spec = DataSpec(modalities=MODALITIES, task=task)
    preprocessor = Preprocessor.fit(samples_of(task, 50, seed=3), spec)
    samples = samples_of(task, 50, seed=4)
    samples.inputs["meta"][:, 3] = np.where(np.arange(50) % 5 == 0, 0.5, samples.inputs["meta"][:, 3])
    samples.inputs["vec"][3] = 1e30
    expected = preprocessor.encode(samples)
    found = MemberEncoding(preprocessor, {})(raw_of(samples, {}))
    for name, values in expected.inputs.items():
        np.testing.assert_array_equal(found[name].numpy(), values, err_msg=name)


@pytest.mark.parametrize("analyzer", ["words", "characters"])
def test_pieces_of_texts_count_as_in_scikit_learn(analyzer):
    texts = ["Good good  bad", "", "I am 5 🙂", "a b  c\td", "naïve Köln ﬁne don't", "xx"]
    features = TextFeatures(TextFeaturesConfig(analyzer=analyzer, min_documents=1)).fit(texts[:-1])
    vocabulary = {term: i for i, term in enumerate(features.terms, start=1)}
    coefficients = np.random.default_rng(0).normal(size=(features.width, 2))
    ids, counts = terms_of([*texts, "good unknown"], analyzer, vocabulary)
    summed = TermSum(features.terms, features.idf, coefficients, vocabulary)(
        torch.from_numpy(ids), torch.from_numpy(counts)
    )
    expected = features.transform([*texts, "good unknown"]) @ coefficients
    np.testing.assert_allclose(summed.numpy(), expected, atol=1e-12)


def test_tokens_are_those_of_the_library():
    texts = ["", "Good, good!!!", "ﬁne 🙂 " + "long " * 400, "x" * 500, "naïve\u0301", "a b c d e f"]
    for num in (1, 7, 128):
        np.testing.assert_array_equal(bundle_token_ids(texts, num), token_ids(np.array(texts, dtype=object), num))


def test_a_kind_without_a_graph_is_named(tmp_path):
    learner = fitted(CONFIGS["linear"], TASKS["classification"])
    learner.save(tmp_path)
    learner.config = CONFIGS["tabular_mlp"]
    with pytest.raises(ConfigError, match="tabular_mlp"):
        estimator(learner, tmp_path, {})


class Saying:
    """A learner that says what it is told to, where it has what it needs."""

    def __init__(self, modalities, tolerates, answers):
        self.modalities, self.tolerates, self.answers = modalities, tolerates, answers

    def usable(self, available):
        needed = [available[name] for name in self.modalities if name not in self.tolerates]
        return np.logical_and.reduce([np.any([available[n] for n in self.modalities], axis=0), *needed])

    def predict(self, samples):
        rows = samples.ids.astype(int)
        there = np.stack([samples.available[name] for name in self.modalities], axis=1) @ (
            2 ** np.arange(len(self.modalities))
        )
        return np.where(self.usable(samples.available)[:, None], self.answers[there, rows], np.nan)


def made_up(task: TaskSpec, seed: int, num_modalities: int = 4, num_listed: int | None = None):
    """An ensemble of random learners, weights, temperatures, stackers and promises: (ensemble, samples)."""
    random = np.random.default_rng(seed)
    names = tuple("abcdef"[:num_modalities])
    spec = DataSpec(modalities=tuple(MODALITIES[0].model_copy(update={"name": n}) for n in names), task=task)
    width, num_rows = task.num_outputs, 60
    members, learners = [], {}
    for i in range(6):
        own = tuple(n for n in names if random.random() < 0.6) or names[:1]
        if task.kind == "classification":
            answers = random.dirichlet(np.ones(width) * 0.3, (2 ** len(own), num_rows))
        else:
            answers = random.random((2 ** len(own), num_rows, width)) * (1 if task.kind == "multilabel" else 50)
        answers[:, 5] = np.nan
        name = f"learner-{i}"
        learners[name] = Saying(own, frozenset(own if random.random() < 0.5 else own[1:]), answers)
        keys = {pattern_key(p & set(own), own) for p in patterns_to_judge(names)} - {""}
        warmth = {key: float(random.uniform(0.3, 3)) for key in sorted(keys) if random.random() < 0.7}
        members.append(Member(name=name, folder="", kind="linear", modalities=own, temperatures=warmth))

    def learned(pattern) -> PatternWeights:
        chosen = [m.name for m in members if random.random() < 0.5]
        weights = random.dirichlet(np.ones(len(chosen))) if chosen else []
        stacker = Stacker(
            coefficients={name: float(random.normal()) for name in chosen[1:]},
            bias=tuple(random.normal(size=width)),
            gain=0.1,
        )
        features = tuple(map(tuple, random.normal(size=(width, 3))))
        spread = SpreadModel(
            centres=features,
            scales=tuple(map(tuple, random.uniform(1, 9, (width, 3)))),
            intercept=tuple(random.normal(size=width)),
            slopes=features,
        )
        rule = ConformalRule(
            coverage=0.9,
            method="aps" if random.random() < 0.5 else "lac",
            thresholds=tuple(random.uniform(0.3, 0.95, width if task.kind == "regression" else 1)),
        )
        regression = task.kind == "regression"
        return PatternWeights(
            available=tuple(n for n in names if n in pattern),
            weights=dict(zip(chosen, map(float, weights), strict=True)),
            temperature=1.0 if regression else float(random.uniform(0.4, 2)),
            temperature_slope=0.0 if regression else float(random.uniform(0, 2)),
            explained=float(random.random()) if regression and random.random() < 0.8 else None,
            error_std=tuple(random.uniform(1, 9, width)) if regression and random.random() < 0.8 else None,
            uninformed=bool(random.random() < 0.15),
            stacker=stacker if chosen and random.random() < 0.5 else None,
            spread=spread if regression and random.random() < 0.7 else None,
            conformal=rule if random.random() < 0.8 else None,
        )

    listed = patterns_to_judge(names)[:num_listed]
    manifest = EnsembleManifest(
        name="made up",
        spec=spec,
        members=tuple(members),
        patterns=tuple(learned(pattern) for pattern in listed),
        prior=tuple(random.dirichlet(np.ones(width))) if task.kind != "regression" else (40.0,) * width,
        prior_std=(9.0,) * width if task.kind == "regression" else None,
        prior_conformal=ConformalRule(coverage=0.9, thresholds=(0.8,) * (width if task.kind == "regression" else 1)),
    )
    masks = {name: random.random(num_rows) < 0.55 for name in names}
    samples = Samples(
        inputs={name: np.zeros((num_rows, 6), np.float32) for name in names},
        available=masks,
        ids=np.array([str(i) for i in range(num_rows)], dtype=object),
    )
    return Ensemble(manifest, Path("nowhere"), learners=learners), samples


def combined(ensemble: Ensemble, samples: Samples) -> dict[str, np.ndarray]:
    members = ensemble.members
    learners = [ensemble.learner(member.name) for member in members]
    names = ensemble.spec.names
    own = [[n in learner.modalities for n in names] for learner in learners]
    needed = [[n in learner.modalities and n not in learner.tolerates for n in names] for learner in learners]
    available = torch.from_numpy(samples.availability(names))
    combination = Combination(ensemble, members)
    said = torch.from_numpy(np.stack([learner.predict(samples) for learner in learners], axis=1))
    with torch.inference_mode():
        found = combination(said, Usable(own, needed)(available), available)
    return {name: tensor.numpy() for name, tensor in zip(combination.output_names, found, strict=True)}


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("seed", range(12))
def test_any_combination_is_answered_under_any_pattern_as_in_the_library(task, seed):
    num_modalities = 2 + seed % 5
    ensemble, samples = made_up(TASKS[task], seed, num_modalities, num_listed=None if seed % 3 else 1 + seed // 3)
    expected, found = ensemble.predict(samples), combined(ensemble, samples)
    for name, values in found.items():
        wanted = getattr(expected, name)
        if name == "sets":
            np.testing.assert_array_equal(values, wanted)
        else:
            np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-9, err_msg=name)
    absent = {"std", "sets", "lower", "upper"} - set(found)
    assert all(getattr(expected, name) is None for name in absent)


def test_columns_of_the_test_table_cover_both_sizes_of_category():
    sizes = [len(column.categories) for column in COLUMNS if column.categories]
    assert min(sizes) <= 16 < max(sizes)
