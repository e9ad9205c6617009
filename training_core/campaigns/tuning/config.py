"""`TuningConfig`: what is searched, what counts as better, how trials are chosen, and when the search ends."""

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import field_validator, model_validator

from training_core.addresses import holds_secret
from training_core.config import Config
from training_core.learners import LearnerConfig
from training_core.quantities import NonNegativeInt, PositiveFloat, PositiveInt
from training_core.variants import kinds

Target = Literal["learner", "ensemble", "combination"]
ObjectiveName = Literal["loss", "score", "seconds", "size_mb", "robustness", "ece"]
SamplerKind = Literal["tpe", "gp", "nsga2", "nsga3", "random", "cmaes", "qmc"]
PrunerKind = Literal["hyperband", "asha", "median", "wilcoxon", "none"]
Mode = Literal["deterministic", "throughput"]
ParamValue = bool | int | float | str | None
"""What a trial gives a field: a field that holds a tuple gets it as JSON text."""

OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
_RANGE_KEYS = frozenset({"low", "high", "log", "step", "choices"})


class GivenRange(Config):
    """Over what a field is searched, in place of what it declares: `[1e-4, 1e-2, log]` or `{choices: [32, 64]}`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: PositiveFloat | None = None
    choices: tuple[ParamValue | tuple[ParamValue, ...], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, data: Any) -> Any:
        """`[low, high]`, or `[low, high, log]`."""
        if not isinstance(data, list | tuple):
            return data
        if len(data) not in (2, 3) or (len(data) == 3 and data[2] != "log"):
            raise ValueError("a range is [low, high], [low, high, log] or {choices: […]}")
        return {"low": data[0], "high": data[1], "log": len(data) == 3}

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if self.choices and (self.low, self.high, self.log, self.step) != (None, None, False, None):
            raise ValueError("a range has `low` and `high`, or `choices`, not both")
        if not self.choices and (self.low is None or self.high is None):
            raise ValueError("a range has `low` and `high`, or `choices`")
        return self


class TuningConfig(Config):
    """How a run's settings are searched for better ones."""

    target: Target = "learner"
    """learner: the settings of one kind of learner, trained on all modalities. ensemble: those of the whole run, every
    trial an ensemble. combination: only how trained learners are combined; they are trained once."""
    learner: str = "fusion_net"
    """learner: the kind that is tuned."""
    objectives: tuple[ObjectiveName, ...] = ("loss",)
    """What counts, on rows outside the bag: loss; score, the task's metric; seconds of processor time; size_mb of what
    is saved; robustness, the mean loss over patterns with modalities hidden; ece, the calibration error. Several: the
    trials that no other beats in all of them."""
    max_size_mb: PositiveFloat | None = None
    """Trials whose saved learners are larger (MB, 1e6 bytes) are not acceptable."""
    max_seconds: PositiveFloat | None = None
    """Trials whose jobs take more seconds of processor time are not acceptable."""
    max_ms_per_row: PositiveFloat | None = None
    """Trials whose learners take longer to answer a row (milliseconds) are not acceptable."""
    trials: PositiveInt = 50
    """Trials in all, those of earlier calls on the same study counted."""
    seconds: PositiveFloat | None = None
    """No trial is begun when so many seconds are over; no limit by default."""
    patience: PositiveInt | None = None
    """Trials without a better one after which the search ends; no limit by default."""
    batch: PositiveInt = 4
    """Trials at a time. Nets of one architecture among them are trained together."""
    mode: Mode = "deterministic"
    """deterministic: batches of trials, each chosen when the batch before it is done, so that the same seed gives the
    same study. throughput: the next trial begins as soon as one ends."""
    sampler: SamplerKind = "tpe"
    """Who chooses the next trial: tpe (Bergstra et al. 2011), gp (a Gaussian process, for trials that take minutes),
    nsga2 (Deb et al. 2002), nsga3 (Deb & Jain 2014), cmaes (Hansen 2016, arXiv:1604.00772; numbers, one objective), qmc
    (a scrambled Sobol' sequence), random."""
    startup_trials: NonNegativeInt = 10
    """Trials spread evenly over the space before the sampler judges from what it saw."""
    pruner: PrunerKind = "hyperband"
    """Who ends hopeless trials early. Per epoch: hyperband (Li et al. 2018, arXiv:1603.06560), asha (Li et al. 2020,
    arXiv:1810.05934), median; per fold: wilcoxon; none. Several objectives: nobody."""
    min_epochs: PositiveInt = 3
    """Epochs that every trial is given."""
    folds: PositiveInt = 1
    """learner: folds a trial is judged on, one after the other. 1: one part of the rows held out."""
    fields: tuple[str, ...] = ()
    """Search only these of the fields that declare a range: dotted fields or sections, such as `training` or
    `fusion_net.dropout`; those of `space` as well. Empty: all of them."""
    space: Mapping[str, GivenRange | None] = {}
    """Dotted field to what is searched of it, in place of what it declares: `training.lr: [1e-4, 1e-2, log]`,
    `fusion_net.width: {choices: [32, 64]}`, or null to leave it, or a section, as it is set. Any field that the target
    reads may be named."""
    warm_start: bool = True
    """Begin with what was best in earlier studies of the same fields in this store, after the run's own settings."""
    name: str | None = None
    """Of the study: the same name in the same store goes on with it. By default made of what is searched on what."""
    storage: str | None = None
    """Where the study is kept: a database URL, or `grpc://host:port`. By default a file in the store."""
    grace_seconds: PositiveFloat = 120.0
    """How long another machine may be silent before the trials it has begun are taken over."""

    @field_validator("learner")
    @classmethod
    def _known_kind(cls, learner: str) -> str:
        if learner not in kinds(LearnerConfig):
            raise ValueError(f"unknown kind of learner '{learner}'; choose from {', '.join(kinds(LearnerConfig))}")
        return learner

    @field_validator("storage")
    @classmethod
    def _without_password(cls, storage: str | None) -> str | None:
        if storage is not None and holds_secret(storage):
            raise ValueError(
                "it holds a password, which records of the study would show; leave it to the environment "
                "(PGPASSWORD, MYSQL_PWD) or the driver's own file (~/.pgpass)"
            )
        return storage

    @field_validator("objectives")
    @classmethod
    def _different_objectives(cls, objectives: tuple[ObjectiveName, ...]) -> tuple[ObjectiveName, ...]:
        if not objectives or len(set(objectives)) < len(objectives):
            raise ValueError(f"name one or several different ones of {', '.join(OBJECTIVES)}")
        return objectives

    @model_validator(mode="after")
    def _folds_can_be_compared(self) -> Self:
        if self.pruner == "wilcoxon" and self.folds < 2:
            raise ValueError(
                "wilcoxon compares trials fold by fold; set `folds` to 2 or more, or choose another pruner"
            )
        return self

    @field_validator("space", mode="before")
    @classmethod
    def _flat(cls, space: Any) -> Any:
        """`{training: {lr: …}}`, as `--set tuning.space.training.lr=…` says it, is `{training.lr: …}`."""
        return _flattened(space) if isinstance(space, Mapping) else space


def _flattened(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys; what is a range itself stays whole."""
    flat: dict[str, Any] = {}
    for key, value in space.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and not value.keys() <= _RANGE_KEYS:
            flat.update(_flattened(value, f"{path}."))
        else:
            flat[path] = value
    return flat
