"""What a study found, as one JSON-able value with stable keys: all that its report, its table and its tracker need."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from training_core.artifacts import write_text_atomically
from training_core.campaigns.tuning.config import ObjectiveName, ParamValue, Target
from training_core.campaigns.tuning.space import Dimension
from training_core.config import Config
from training_core.errors import StorageError

if TYPE_CHECKING:
    import optuna

Direction = Literal["minimize", "maximize"]
TrialStateName = Literal["complete", "pruned", "failed", "running"]
SUMMARY, BEST, REPORT = "study.json", "best.yaml", "report.html"
_FEWEST = 4
"""Complete trials without which nothing can be said of importances."""


class TrialRecord(Config):
    """One trial."""

    number: int
    state: TrialStateName
    params: Mapping[str, ParamValue]
    """By dotted path."""
    values: tuple[float, ...] | None = None
    """One per objective; None when it did not get that far."""
    constraints: Mapping[str, float] = {}
    """How far it is beyond each limit, in units of the limit; 0 or less is within."""
    curve: tuple[float, ...] = ()
    """Best validation loss so far, per epoch; empty where nothing was trained by epochs."""
    folds: tuple[float, ...] = ()
    """The first objective on each fold; empty when there was one."""
    epochs: int = 0
    """Trained, of all its learners."""
    started: float | None = None
    """In seconds since the epoch, as `ended`."""
    ended: float | None = None
    cpu_seconds: float = 0.0
    """Of its jobs, those that an earlier run had trained included."""
    feasible: bool = True
    """Whether it is within all limits."""
    enqueued: str = ""
    """`default` for the run's own settings, `warm start` for a winner of an earlier study; else the sampler chose."""
    error: str = ""
    """Why it failed or was pruned."""


class StudySummary(Config):
    """One study."""

    name: str
    title: str
    """What a person calls the run that was tuned."""
    dataset: str
    """`name@version`."""
    dataset_fingerprint: str = ""
    target: Target
    learner: str = ""
    """The kind that was tuned; empty where it was not one kind."""
    metric: str
    """What the objective `score` is."""
    objectives: tuple[ObjectiveName, ...]
    directions: tuple[Direction, ...]
    sampler: str
    pruner: str
    mode: str
    seed: int
    space: tuple[Dimension, ...]
    trials: tuple[TrialRecord, ...]
    """By number."""
    best: int | None
    """Number of the best trial within all limits; of several objectives that of the front that is best in the first."""
    front: tuple[int, ...]
    """Numbers of the trials within all limits that no other beats in every objective, best in the first one first."""
    counts: Mapping[TrialStateName, int]
    seconds: float
    """Of this call."""
    cpu_seconds: float
    """Of the jobs of all trials."""
    storage: str
    folder: str
    best_yaml: str
    """Path of a RUN.yaml with the settings of the best trial; empty when there is none."""
    report: str
    """Path of the HTML report."""
    importances: Mapping[str, Mapping[str, float]]
    """Share of each parameter in the first objective, by `ped_anova` (Watanabe et al. 2023: what matters among the
    best) and `fanova` (Hutter et al. 2014: what matters all over the space); empty with fewer than four trials."""
    stopped: str
    """Why the search ended, as a sentence."""

    @property
    def best_trial(self) -> TrialRecord | None:
        """The best trial; None when none is complete and within all limits."""
        return next((trial for trial in self.trials if trial.number == self.best), None)

    @property
    def default_trial(self) -> TrialRecord | None:
        """The trial of the run's own settings; None when there was none."""
        return next((trial for trial in self.trials if trial.enqueued == "default"), None)

    @property
    def epochs(self) -> int:
        """Epochs trained by all trials."""
        return sum(trial.epochs for trial in self.trials)


def write_summary(summary: StudySummary) -> Path:
    """Keep a summary in its study's folder."""
    path = Path(summary.folder) / SUMMARY
    write_text_atomically(path, summary.to_json())
    return path


def read_summary(folder: Path) -> StudySummary:
    """The summary of a study that was kept in `folder`.

    Raises:
        StorageError: there is none, or it does not read back.
    """
    try:
        return StudySummary.model_validate_json((folder / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder / SUMMARY} cannot be read ({type(error).__name__}); run the study again") from None


def pareto_front(trials: tuple[TrialRecord, ...], directions: tuple[Direction, ...]) -> tuple[int, ...]:
    """Numbers of the feasible complete trials that no other one dominates, best in the first objective first.

    One dominates another when it is at least as good in every objective and better in one. With one objective there is
    one: the first of equals.
    """
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions]
    costs = {
        trial.number: [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        for trial in sorted(trials, key=lambda trial: trial.number)
        if trial.state == "complete" and trial.feasible and trial.values is not None
    }
    if len(directions) == 1:
        return (min(costs, key=lambda number: costs[number]),) if costs else ()

    def dominated(own: list[float]) -> bool:
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in costs.values())

    return tuple(sorted((n for n, cost in costs.items() if not dominated(cost)), key=lambda n: (costs[n], n)))


def parameter_importances(study: "optuna.Study", seed: int) -> dict[str, dict[str, float]]:
    """Shares of the parameters in the first objective by both measures; a measure that fails is left out.

    Only parameters that every complete trial has are measured.
    """
    import warnings

    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _FEWEST:
        return {}
    shared = set.intersection(*(set(trial.params) for trial in complete))
    varied = sorted(name for name in shared if len({trial.params[name] for trial in complete}) > 1)
    if not varied or len({trial.values[0] for trial in complete}) < 2:
        return {}
    evaluators = {
        "ped_anova": optuna.importance.PedAnovaImportanceEvaluator(),
        "fanova": optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=seed % 2**32),
    }
    found: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, evaluator in evaluators.items():
            try:
                shares = optuna.importance.get_param_importances(
                    study, evaluator=evaluator, params=varied, target=lambda trial: trial.values[0]
                )
            except (ValueError, RuntimeError):  # too few different values
                continue
            found[name] = {path: float(share) for path, share in shares.items()}
    return found
