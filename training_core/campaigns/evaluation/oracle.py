"""The best that could be had with some modalities missing: an ensemble trained on just the others.

An ensemble that was trained for every pattern at once should come close to one that was trained for a single pattern.
"""

from pathlib import Path

from training_core.artifacts import ArtifactRef, open_published
from training_core.campaigns.evaluation.subject import ModelRef, training_settings
from training_core.campaigns.library import fit_ensemble
from training_core.campaigns.run_config import RunConfig
from training_core.config import Config
from training_core.jobs import OnEvent
from training_core.schema import MAX_ENUMERATED, patterns_to_judge


class OracleRef(Config):
    """An ensemble trained on some modalities only."""

    available: tuple[str, ...]
    artifact: ArtifactRef


def oracle_runs(model: ModelRef, store: Path) -> tuple[RunConfig, ...]:
    """The runs that train the oracles of a model: its own run on its own data, on fewer modalities.

    Of up to `schema.MAX_ENUMERATED` modalities one for every pattern that lacks some; of more, for each missing one.

    Where the store has no record of the model's run, the settings are the defaults, with the model's seed.
    """
    ensemble = model.load()
    names = ensemble.spec.names
    base = training_settings(model.artifact, store) or RunConfig(dataset="", seed=ensemble.manifest.seed)
    few = len(names) <= MAX_ENUMERATED
    patterns = [p for p in patterns_to_judge(names) if few or len(p) == len(names) - 1]
    return tuple(
        base.model_copy(
            update={
                "dataset": ensemble.manifest.dataset,
                "modalities": tuple(name for name in names if name in pattern),
                "trackers": (),
                "profile": False,
                "executor": "processes",  # the library knows no other
                "cluster": "",
            }
        )
        for pattern in patterns
        if len(pattern) < len(names)
    )


def train_oracle(run: RunConfig, store: Path, on_event: OnEvent = lambda event: None) -> OracleRef:
    """Train one of `oracle_runs`; at once when it was trained before.

    Raises:
        DataError: the version that the model was trained on is not in this store any more.
        GateError: too few learners trained.
        TransientError: a learner's process died; the same call goes on.
    """
    ensemble = fit_ensemble(run, store, on_event)
    return OracleRef(available=run.modalities, artifact=open_published(ensemble.folder))
