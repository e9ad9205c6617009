"""What a call of `fit_ensemble` ends with, as fields and as a text to read in a notebook."""

from collections.abc import Mapping

from training_core.campaigns.budget_use import BudgetUse, CostScore
from training_core.campaigns.summary import Judgement, LearnerCounts
from training_core.config import Config
from training_core.quantities import format_seconds


class FitSummary(Config):
    """What came of a training. Printing it gives a short text."""

    dataset: str
    """`name@version`."""
    metric: str
    judgement: Judgement | None
    """What the test rows say; None when the data set has none."""
    learners: LearnerCounts
    best_single: str
    """The learner that does best alone on rows outside its bag."""
    best_single_score: float | None
    """The metric of it there."""
    seconds: float
    """Of the whole call."""
    cpu_seconds: float
    """Of all learners, those trained earlier included."""
    peak_mb: float
    """Largest resident memory of a process that trained learners, in MB (1e6 bytes)."""
    cost_model: CostScore | None
    budget: BudgetUse | None
    failures: Mapping[str, str]
    """Why each failed learner failed."""
    ensemble: str
    """Its folder."""

    def __str__(self) -> str:
        """A few lines."""
        counts, judged = self.learners, self.judgement
        lines = [f"{self.dataset}: " + ("not judged, there are no test rows" if judged is None else _score(judged))]
        single = "" if self.best_single_score is None else f", {self.metric} {self.best_single_score:.4f} out of bag"
        lines.append(f"best single learner: {self.best_single}{single}")
        done = f"{counts.trained} trained, {counts.reused} reused, {counts.failed} failed, {counts.kept} kept"
        lines.append(f"learners: {done}" + (f", {counts.skipped} skipped for want of time" if counts.skipped else ""))
        lines.extend(f"  {name} failed: {why}" for name, why in self.failures.items())
        lines.append(f"time: {format_seconds(self.seconds)}; learners took {format_seconds(self.cpu_seconds)} of CPU")
        if self.budget is not None and self.budget.usable_seconds is not None:
            lines.append(f"first usable ensemble after {format_seconds(self.budget.usable_seconds)}")
        if judged is not None:
            lines.extend(
                f"  without {', '.join(row.missing)}: {row.score:.4f}, confidence {row.confidence:.3f}"
                for row in judged.patterns[1:]
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def _score(judged: Judgement) -> str:
    ece = "" if judged.ece is None else f", calibration error {judged.ece:.3f}"
    return f"{judged.metric} {judged.score:.4f} on {judged.num_rows} test rows{ece}"
