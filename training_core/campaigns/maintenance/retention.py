"""How long a store keeps what, and what a maintenance did."""

from training_core.config import Config
from training_core.quantities import PositiveFloat, format_bytes

_SHOWN_NAMES = 3


class RetentionConfig(Config):
    """How long a store keeps what."""

    cache_days: PositiveFloat = 30.0
    """Days after which what nobody has used since, and can be made again, goes: learners, checkpoints, ensembles that
    are not registered, cached results, runs that were deleted from the tracker."""
    history_days: PositiveFloat = 365.0
    """Days after which what tells of the past goes: reports, evaluations, studies, drift reports, curves on disk."""
    flow_run_days: PositiveFloat = 30.0
    """Days after which the orchestrator forgets a flow run that is over."""
    dry_run: bool = False
    """Only say what would go."""


class Tidied(Config):
    """Things of one kind that went, or would."""

    kind: str
    names: tuple[str, ...]
    num_bytes: int = 0
    """Freed on the disk."""


class TidyReport(Config):
    """What a maintenance did, or would do."""

    dry_run: bool
    tidied: tuple[Tidied, ...]
    """By kind, in the order in which they went; kinds of which nothing went are left out."""
    problems: tuple[str, ...] = ()
    """What could not be removed, and why; it is tried again next time."""

    @property
    def num_bytes(self) -> int:
        """Freed on the disk in all."""
        return sum(kind.num_bytes for kind in self.tidied)

    def sentence(self) -> str:
        """It in one line."""
        things = sum(len(kind.names) for kind in self.tidied)
        verb = "would free" if self.dry_run else "freed"
        found = f"{verb} {format_bytes(self.num_bytes)} ({things} things)" if things else "nothing to remove"
        return found + (f"; {len(self.problems)} problems" if self.problems else "")

    def rows(self) -> list[dict[str, str | int]]:
        """It as a table: kind, number, size and a few names."""
        return [
            {
                "kind": kind.kind,
                "number": len(kind.names),
                "size": format_bytes(kind.num_bytes) if kind.num_bytes else "",
                "for example": ", ".join(kind.names[:_SHOWN_NAMES]),
            }
            for kind in self.tidied
        ]
