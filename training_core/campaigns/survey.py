"""The first of two rounds of a campaign with adaptive bags: cheap learners of single modalities say what each tells.

Round one trains one learner on the bag of every single modality; what they get right on rows outside their bags, beyond
what is known without any input, is the utility of their modality, and decides how often the bags of round two drop it.
The functions are pure: round two is planned from the reports of round one, and the jobs of round one are part of its
plan as well, so that they are found trained, and their learners are candidates of the ensemble like any other.
"""

from collections.abc import Sequence

import numpy as np

from training_core.campaigns.budget import max_bytes
from training_core.campaigns.run_config import RunConfig
from training_core.data.splitting.bags import Bag, single_modality_bags
from training_core.data.storage.store import Dataset
from training_core.errors import ConfigError
from training_core.evaluation.metrics import score
from training_core.jobs import JobReport, read_out_of_bag
from training_core.schema import DataSpec, TaskSpec
from training_core.selection.choice import Choice, SelectionConfig, choose_learners

_CHEAP_KINDS = ("linear", "tfidf_linear")
"""Learners of tables, vectors and texts that train in about a second and find most of what a modality tells alone."""


def needs_survey(run: RunConfig, spec: DataSpec) -> bool:
    """Whether the bags of a run depend on what its modalities tell by themselves."""
    return run.bags.strategy == "adaptive" and run.bags.modality_bags and len(spec.modalities) > 1


def survey_choices(
    run: RunConfig, spec: DataSpec, num_rows: int, bags: Sequence[Bag], chosen: Sequence[Choice] = ()
) -> tuple[Choice, ...]:
    """The learners of round one: a cheap one for each bag of a single modality; none where they are not needed.

    Linear ones where they can learn the modality and `learners.include` allows them, else the allowed kind that is
    expected to be quickest.

    Args:
        run: what is trained.
        spec: of the modalities that are used.
        num_rows: rows in a bag.
        bags: all of the run, or only those of single modalities.
        chosen: choices that are made for the run already; what is among them is left out.

    Raises:
        ConfigError: no kind of learner can take a modality, or in more memory than `budget.memory_mb` allows.
    """
    if not needs_survey(run, spec):
        return ()
    known = {(choice.bag, choice.learner.kind) for choice in chosen}
    found: list[Choice] = []
    for bag in single_modality_bags(bags):
        (choice,) = _cheap_choice(run, spec, num_rows, bag)
        if (bag.name, choice.learner.kind) not in known:
            reason = f"{choice.learner.kind} measures what {bag.modalities[0]} tells by itself, for the adaptive bags."
            found.append(choice.model_copy(update={"num_copies": 1, "reason": reason}))
    return tuple(found)


def modality_utilities(dataset: Dataset, reports: Sequence[JobReport]) -> dict[str, float]:
    """u_m = max(0, score_m - score of the prior) of each modality, from the reports of round one.

    Both scores are the task's metric on the same rows: those outside the bags that have the modality, of all bags of
    it together (each row once per bag that leaves it out). The prior is what is known without input: class or label
    frequencies, or target means, of the training rows. A modality whose learner failed, or that is missing in all rows
    it could be judged on, is not listed.
    """
    train = dataset.rows("train")
    prior = _prior(dataset.spec.task, dataset.target(train))
    heard: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for report in reports:
        if report.artifact is None or len(report.modalities) != 1:
            continue
        (name,) = report.modalities
        rows, predictions = read_out_of_bag(report.artifact)
        values = predictions[name]
        voted = np.isfinite(values).all(axis=1)
        heard.setdefault(name, []).append((rows[voted], values[voted]))
    utilities: dict[str, float] = {}
    for name in (name for name in dataset.spec.names if name in heard):
        rows = np.concatenate([rows for rows, _ in heard[name]])
        if len(rows):
            values = np.concatenate([values for _, values in heard[name]]).astype(np.float64)
            utilities[name] = gain_over_prior(dataset.spec.task, dataset.target(rows), values, prior)
    return utilities


def gain_over_prior(task: TaskSpec, target: np.ndarray, values: np.ndarray, prior: np.ndarray) -> float:
    """max(0, score of `values` [n, C] - score of `prior` [C]) on the same n rows."""
    known = score(task, target, np.broadcast_to(prior, values.shape))
    return max(0.0, score(task, target, values) - known)


def _prior(task: TaskSpec, target: np.ndarray) -> np.ndarray:
    """What to answer without any input, [C]."""
    if task.kind == "classification":
        return np.bincount(target, minlength=task.num_outputs) / len(target)
    return np.asarray(target.mean(axis=0), np.float64)


def _cheap_choice(run: RunConfig, spec: DataSpec, num_rows: int, bag: Bag) -> tuple[Choice, ...]:
    """The choice for one bag of a single modality."""
    include = run.learners.include
    cheap = tuple(kind for kind in _CHEAP_KINDS if not include or kind in include)
    config = SelectionConfig(strategy="speed", learners_per_bag=1, include=include)
    settings, limit = run.learner_settings(), max_bytes(run)
    if cheap:
        try:
            cheap_config = config.model_copy(update={"include": cheap})
            return choose_learners([bag], spec, num_rows, run.training.epochs, settings, cheap_config, limit)
        except ConfigError:  # an image, say: none of the cheap kinds takes it, or in too much memory
            pass
    return choose_learners([bag], spec, num_rows, run.training.epochs, settings, config, limit)
