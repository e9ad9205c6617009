"""`RunConfig`: everything a training run can be told, the same in YAML, on the command line, in Python and in a form.

Two levels deep and without unions, so that the Prefect UI can render it; every field but `dataset` has a default.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from training_core.config import Config
from training_core.data.splitting.bags import BagsConfig
from training_core.engine.training import TrainingConfig
from training_core.errors import ConfigError
from training_core.learners import LearnerSettings
from training_core.quantities import PositiveFloat, PositiveInt, Seed, UnitInterval
from training_core.selection.choice import SelectionConfig
from training_core.selection.combination import CombinationConfig
from training_core.settings import merged, parse_overrides, read_yaml
from training_core.tracking import TrackerKind

Preset = Literal["quick", "balanced", "best"]


class BudgetConfig(Config):
    """What a run may use, and how much may go wrong before it is called off."""

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
"""What each preset changes; `balanced` is the defaults themselves."""


class RunConfig(LearnerSettings):
    """One training run: the data, how it is cut, what is trained on it, and how it is judged."""

    dataset: str
    """`name@version`, `name` for its latest version, or the path of a SOURCE.yaml to prepare first."""
    preset: Preset = "balanced"
    """Starting point; whatever else is set stands over it."""
    seed: Seed = 0
    """Root of every random choice: the same seed on the same data gives the same predictions."""
    bags: BagsConfig = BagsConfig()
    learners: SelectionConfig = SelectionConfig()
    training: TrainingConfig = TrainingConfig()
    combination: CombinationConfig = CombinationConfig()
    budget: BudgetConfig = BudgetConfig()
    trackers: tuple[TrackerKind, ...] = ("mlflow",)
    """Where the run is recorded, in several places at once if you like: mlflow, tensorboard, wandb (written to disk,
    never sent), jsonl. Empty: nowhere."""
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
            return merged(PRESETS[data["preset"]], plain)
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
        if path and "modalities" in data and "dataset" not in data:
            data = {"dataset": path.name}
        if path and isinstance(data.get("dataset"), str) and data["dataset"].endswith((".yaml", ".yml")):
            data["dataset"] = str((path.parent / data["dataset"]).resolve())
        data = merged(merged(data, {k: v for k, v in given.items() if v is not None}), parse_overrides(overrides))
        if "dataset" not in data:
            raise ConfigError(f"{path or 'run'}: `dataset` is missing; name a dataset version or a SOURCE.yaml")
        return cls.parse(data, str(path or "run"))

    @property
    def title(self) -> str:
        """What a person calls the run: the dataset, or the folder or file of its source."""
        source = Path(self.dataset)
        if source.suffix not in {".yaml", ".yml"}:
            return self.dataset
        return source.parent.name if source.stem == "source" and source.parent.name else source.stem

    def learner_settings(self) -> LearnerSettings:
        """The settings of every kind of learner, without the rest of the run."""
        return LearnerSettings.model_validate({name: getattr(self, name) for name in LearnerSettings.model_fields})
