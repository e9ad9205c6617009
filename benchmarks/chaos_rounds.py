"""What came of a blow, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from rich.table import Table


@dataclass
class Round:
    """One blow and what came of it."""

    blow: str
    number: int
    hit: str = ""
    """What was hit, and when."""
    went_through: bool = False
    """Whether the run that was hit came to its end all the same; otherwise it had to be asked for again."""
    lost: list[str] = field(default_factory=list)
    """What was there, or would have been without the blow, and is not."""
    by_hand: list[str] = field(default_factory=list)
    """What a person would have to see to."""
    seconds: float = 0.0
    """From the blow until everything was as it should be."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost and nobody has to do anything."""
        return not self.lost and not self.by_hand


def as_table(rounds: Sequence[Round], named: dict[str, str]) -> Table:
    """A row per blow; `named` says what each of them is."""
    table = Table(title="what came of the blows")
    for column in ("blow", "times", "went through", "asked again", "lost", "by hand", "s until whole"):
        table.add_column(column)
    for blow, what in named.items():
        own = [one for one in rounds if one.blow == blow]
        if not own:
            continue
        through = sum(one.went_through for one in own)
        seconds = [one.seconds for one in own]
        table.add_row(
            what,
            str(len(own)),
            str(through),
            str(len(own) - through),
            str(sum(bool(one.lost) for one in own)),
            str(sum(bool(one.by_hand) for one in own)),
            f"{median(seconds):.0f} (at most {max(seconds):.0f})",
        )
    return table
