"""What a run tells the world: one JSON-able value with stable keys, and the texts and tables made from it."""

from collections.abc import Mapping
from typing import get_args

from training_core.campaigns.budget_use import BudgetUse, CostScore
from training_core.config import Config
from training_core.engine.watching.profiling import Profile
from training_core.engine.watching.speed import SpeedReport
from training_core.evaluation.patterns import PatternScore
from training_core.jobs import JobReport, JobStatus
from training_core.selection.leaderboard import LeaderboardRow


class LearnerCounts(Config):
    """How many learners there were at each stage."""

    planned: int
    trained: int
    reused: int
    failed: int
    skipped: int = 0
    """There was no time for them."""
    pruned: int = 0
    """They were given up."""
    kept: int
    """Learners with a weight in at least one availability pattern."""

    @classmethod
    def of(cls, reports: tuple[JobReport, ...], kept: int) -> "LearnerCounts":
        """Count reports by status."""
        counts = {status: sum(report.status == status for report in reports) for status in get_args(JobStatus)}
        return cls(planned=len(reports), kept=kept, **counts)


class SingleScore(Config):
    """How well one learner does on the test split."""

    learner: str
    score: float
    """On all its rows: where the learner cannot say anything, what is known without any input is its answer."""
    answered_score: float | None = None
    """On the rows it can say something of, as its score outside the bag is; None when there is none."""
    num_answered: int = 0
    """How many these are."""


class MeanScore(Config):
    """How well the unweighted mean of all learners does on the test split."""

    score: float


class Judgement(Config):
    """What the test split says about an ensemble; the split is used for nothing else."""

    metric: str
    score: float
    ece: float | None
    confidence: float
    test: dict[str, float]
    """All metrics with every modality that a row has."""
    num_rows: int
    best_single: SingleScore
    """The learner that did best on rows outside its bag; chosen there, judged here."""
    plain_mean: MeanScore
    patterns: tuple[PatternScore, ...]
    predictions_sha256: str
    """Hash of the test predictions, rounded to 1e-6, in id order."""


class ProfiledTraining(Config):
    """What the steps of one training spent their time on."""

    folder: str
    """Holds the trace, `trace.json.gz`, and the operators as a table, `operators.txt`."""
    profile: Profile


class RunSummary(Config):
    """One training run from end to end. The keys are stable; more may be added."""

    dataset: str
    """`name@version`."""
    run_id: str
    """Id of the run in the tracker."""
    model: str
    """`models:/name/version`, or the ensemble's directory when nothing was registered."""
    ensemble: str
    """The ensemble's directory."""
    metric: str
    score: float
    ece: float | None
    test: dict[str, float]
    best_single: SingleScore
    plain_mean: MeanScore
    patterns: tuple[PatternScore, ...]
    learners: LearnerCounts
    seconds: float
    cpu_seconds: float
    """Of all learners, those trained earlier included."""
    peak_mb: float
    """Largest resident memory of any learner's process, in MB (1e6 bytes)."""
    predictions_sha256: str
    report: str
    """Path of the HTML report."""
    tracking: str
    """Where the tracker keeps its runs."""
    seed: int
    leaderboard: tuple[LeaderboardRow, ...]
    failures: dict[str, str]
    """Why each failed learner failed."""
    speed: Mapping[str, SpeedReport] = {}
    """How fast each net was trained, by name, as it was when it was trained."""
    advice: tuple[str, ...] = ()
    """What went wrong and what to change, what cost most first."""
    profiles: Mapping[str, ProfiledTraining] = {}
    """Of the nets that were profiled when they were trained."""
    cost_model: CostScore | None = None
    """How well the cost of the learners was predicted; None where nothing was trained."""
    budget: BudgetUse | None = None
    """What became of the budget; None where none was set."""
