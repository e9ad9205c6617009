"""The learners of a run in one table, the best first."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from training_core.config import Config

if TYPE_CHECKING:
    import pandas as pd


class Report(Protocol):
    """What a leaderboard reads of a job's report."""

    @property
    def name(self) -> str:
        """Name of the job."""
        ...

    @property
    def learner(self) -> str:
        """Kind of learner."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it was trained on."""
        ...

    @property
    def bag(self) -> str:
        """Name of its bag."""
        ...

    @property
    def score(self) -> float | None:
        """The task's metric out of bag; None when it failed."""
        ...

    @property
    def seconds(self) -> float:
        """Time it took to train."""
        ...

    @property
    def size_bytes(self) -> int:
        """Size of the saved learner."""
        ...

    @property
    def status(self) -> str:
        """trained, reused, failed or skipped."""
        ...


class LeaderboardRow(Config):
    """One learner of a run."""

    name: str
    learner: str
    """Kind of learner."""
    modalities: tuple[str, ...]
    bag: str
    score: float | None
    """The task's metric on rows outside its bag; None when it failed."""
    weight: float
    """Its weight in the ensemble when every modality is present."""
    seconds: float
    """Time it took to train."""
    megabytes: float
    """Size of the saved learner, in MB (1e6 bytes)."""
    status: str

    @property
    def label(self) -> str:
        """The kind, and the number of the copy where a bag has several of it: `fusion_net #2`."""
        _, copied, number = self.name.partition("#")
        return f"{self.learner} #{number}" if copied else self.learner


def leaderboard(reports: Iterable[Report], weights: Mapping[str, float]) -> tuple[LeaderboardRow, ...]:
    """One row per learner that trained or failed: by score, best first, those without one last, then by name.

    Scores are of different rows (each learner's own out-of-bag ones), so close ones are not to be compared.
    """
    rows = [
        LeaderboardRow(
            name=report.name,
            learner=report.learner,
            modalities=report.modalities,
            bag=report.bag,
            score=report.score,
            weight=weights.get(report.name, 0.0),
            seconds=report.seconds,
            megabytes=report.size_bytes / 1e6,
            status=report.status,
        )
        for report in reports
        if report.status not in ("skipped", "pruned")
    ]
    return tuple(sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0), row.name)))


def leaderboard_frame(rows: Iterable[LeaderboardRow]) -> "pd.DataFrame":
    """The same as a data frame, in the same order; `modalities` as `a+b`."""
    import pandas as pd

    cells = [{**row.model_dump(), "modalities": "+".join(row.modalities)} for row in rows]
    return pd.DataFrame(cells, columns=list(LeaderboardRow.model_fields))
