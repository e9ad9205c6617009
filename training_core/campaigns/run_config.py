"""`RunConfig`: everything a training run can be told, the same in YAML, on the command line, in Python and in a form.

Two levels deep and without unions, so that the Prefect UI can render it; every field but `dataset` has a default.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
from pydantic import model_validator

from training_core.campaigns.tuning.config import TuningConfig
from training_core.config import Config, explain
from training_core.data.splitting.bags import BagsConfig
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError
from training_core.evaluation.gates import GateConfig
from training_core.learners import LearnerSettings
from training_core.objectives.denoising import DenoisingConfig
from training_core.quantities import PositiveFloat, PositiveInt, Seed, UnitInterval
from training_core.selection.choice import SelectionConfig
from training_core.selection.combination import CombinationConfig
from training_core.settings import merged, origin_of, parse_overrides, read_yaml
from training_core.tracking import TrackerKind

Preset = Literal["tiny", "quick", "balanced", "best"]
Executor = Literal["processes", "dask", "ray"]


class BudgetConfig(Config):
    """What a run may use, and how much may go wrong before it is called off."""

    seconds: PositiveFloat | None = None
    """Seconds the whole run may take, from the start of the command to its end. Learners that fit in are trained, quick
    ones for every modality first; whatever trains when the time is over is ended. Which learners that are depends on
    the machine, so with this set the same seed need not give the same ensemble. By default as long as it takes."""
    memory_mb: PositiveFloat | None = None
    """Memory, in MB (1e6 bytes), of a learner's process, without pages of mapped files; there are `workers` of them.
    Kinds predicted above it are not chosen, and a learner that goes beyond it is given up. No limit by default."""
    learners: PositiveInt | None = None
    """Learners trained, at most: a quick one for all modalities and one for each first, then those expected to add most
    per second. As many as the bags call for by default."""
    workers: PositiveInt | None = None
    """Learner processes at a time; by default one per GPU, or one per CPU core."""
    group_size: PositiveInt = 4
    """Learners, or stacks of nets that train together, in one process: more saves start-up time, fewer loses less to a
    crash."""
    learner_seconds: PositiveFloat | None = None
    """Seconds after which a single learner is given up, and a stack after that many times as long as it has learners;
    no limit by default."""
    quorum: UnitInterval = 0.5
    """Fraction of the planned learners that must have trained for the run to conclude."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "bags": {"num_bags": 2, "num_row_draws": 2},
        "learners": {"learners_per_bag": 2, "include": ("linear", "hist_boosting", "tfidf_linear", "image_cnn")},
        "training": {"epochs": 10, "patience": 3},
    },
    "quick": {
        "bags": {"num_bags": 6, "num_row_draws": 1},
        "learners": {"learners_per_bag": 1},
        "training": {"epochs": 30, "patience": 6},
    },
    "balanced": {},
    "best": {
        "bags": {"num_bags": 24, "num_row_draws": 4},
        "learners": {"learners_per_bag": 3, "strategy": "accuracy", "net_copies": 4},
        "training": {"epochs": 200, "patience": 25},
    },
}
"""What each preset changes; `balanced` is the defaults themselves, and `tiny` is for a few hundred rows."""


WHERE = frozenset({"trackers", "executor", "cluster", "profile"})
"""Fields that say where a run trains and is recorded; what comes of it is the same."""


class RunConfig(LearnerSettings):
    """One training run: the data, how it is cut, what is trained on it, and how it is judged."""

    dataset: str
    """`name@version`, `name` for its latest version, or the path of a SOURCE.yaml to prepare first."""
    preset: Preset = "balanced"
    """Starting point; whatever else is set stands over it."""
    seed: Seed = 0
    """Root of every random choice: the same seed on the same data gives the same predictions."""
    modalities: tuple[str, ...] = ()
    """Use only these modalities of the data set, as if it had no others; all of them when empty."""
    bags: BagsConfig = BagsConfig()
    learners: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    denoising: DenoisingConfig = DenoisingConfig()
    combination: CombinationConfig = CombinationConfig()
    keep_learners_of: str = ""
    """A model whose learners take part as they are, beside those that are trained: `models:/NAME/VERSION`. They are
    weighed on training rows that they have not seen."""
    budget: BudgetConfig = BudgetConfig()
    gates: GateConfig = GateConfig()
    tune: bool = False
    """Search for better settings first, as `tuning` says, and train with those."""
    tuning: TuningConfig = TuningConfig()
    trackers: tuple[TrackerKind, ...] = ("mlflow",)
    """Where the run is recorded, in several places at once if you like: mlflow, tensorboard, wandb (written to disk,
    never sent), jsonl. Empty: nowhere."""
    executor: Executor = "processes"
    """Where learners train: in processes of this machine, or on the workers of a Dask or Ray cluster, which have to
    share the store and reach the Prefect server; the library without flows knows processes only."""
    cluster: str = ""
    """Address of the Dask scheduler (tcp://host:8786) or the Ray head (ray://host:10001), with as many learner
    processes as `budget.workers`; empty: a cluster on this machine for as long as the run lasts."""
    profile: bool = False
    """Also look at what a few steps of every training spend their time on; see `profile/` beside each learner."""

    @model_validator(mode="before")
    @classmethod
    def _accept_one_tracker(cls, data: Any) -> Any:
        """`tracker: mlflow` as it was written when there could be one; `none` for none."""
        if isinstance(data, dict) and "tracker" in data and "trackers" not in data:
            one = data["tracker"]
            return {**{k: v for k, v in data.items() if k != "tracker"}, "trackers": () if one == "none" else (one,)}
        return data

    @model_validator(mode="before")
    @classmethod
    def _start_from_preset(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("preset") in PRESETS:
            plain = {k: v.model_dump(exclude_unset=True) if isinstance(v, Config) else v for k, v in data.items()}
            found, bags = merged(PRESETS[data["preset"]], plain), plain.get("bags")
            if isinstance(bags, Mapping) and bags.get("sampling") == "folds" and "num_row_draws" not in bags:
                # A preset's draws of rows are no number of folds: there are as many as always, unless it is said.
                found["bags"] = {key: value for key, value in found["bags"].items() if key != "num_row_draws"}
            return found
        return data

    @classmethod
    def load(cls, path: Path | None = None, overrides: Sequence[str] = (), **given: Any) -> Self:
        """Read a RUN.yaml (optional), with `given` keys and then `--set` overrides on top.

        A relative path in `dataset` is taken from the folder of the YAML file. A SOURCE.yaml in place of a RUN.yaml
        stands for a run on it with nothing else said.

        Raises:
            ConfigError: one line naming the key, what was got and what was expected.
        """
        data = read_yaml(path) if path else {}
        if path and isinstance(data.get("modalities"), dict) and "dataset" not in data:
            data = {"dataset": path.name}
        if path and isinstance(data.get("dataset"), str) and data["dataset"].endswith((".yaml", ".yml")):
            data["dataset"] = str((path.parent / data["dataset"]).resolve())
        data = merged(merged(data, {k: v for k, v in given.items() if v is not None}), parse_overrides(overrides))
        if "dataset" not in data:
            raise ConfigError(f"{path or 'run'}: `dataset` is missing; name a dataset version or a SOURCE.yaml")
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as error:
            found = [origin_of(item["loc"], overrides, str(path or "run")) for item in error.errors(include_url=False)]
            raise ConfigError(f"{', '.join(dict.fromkeys(found))}: {explain(error, cls)}") from None

    @property
    def title(self) -> str:
        """What a person calls the run: the dataset, or the folder or file of its source."""
        source = Path(self.dataset)
        if source.suffix not in {".yaml", ".yml"}:
            return self.dataset
        return source.parent.name if source.stem == "source" and source.parent.name else source.stem

    def what_counts(self) -> Self:
        """The run without what cannot change its ensemble: source, how it was found, where it was made."""
        neutral = ("preset", "tune", "tuning", *WHERE)
        return self.model_copy(
            update={"dataset": "", **{name: type(self).model_fields[name].default for name in neutral}}
        )

    def learner_settings(self) -> LearnerSettings:
        """The settings of every kind of learner, without the rest of the run."""
        return LearnerSettings.model_validate({name: getattr(self, name) for name in LearnerSettings.model_fields})
