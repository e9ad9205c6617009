"""What all commands have in common: options, output for people and programs, and errors as users meet them."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from training_core.config import Config
from training_core.errors import PolychoirError, UserError
from training_core.settings import merged, parse_overrides

Asked = TypeVar("Asked", bound=Config)

Store = Annotated[
    Path, typer.Option("--store", help="Folder for datasets, learners, models and tracking.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else on stderr.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. training.epochs=20. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Root of every random choice.", show_default="0")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="quick, balanced or best.", show_default="balanced", metavar="NAME")
]
RunSource = Annotated[
    str, typer.Argument(help="RUN.yaml, SOURCE.yaml, or a dataset (name or name@version).", metavar="RUN")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show library logs, and tracebacks of errors.")]

DEFAULT_STORE = Path(".polychoir")

_ANSWERS: list[IO[str]] = []
"""The standard output of a command whose answer is one JSON object, while everything else goes to stderr."""


class Terminated(BaseException):
    """Somebody asked this process to end (SIGTERM)."""


@contextmanager
def terminated_shown() -> Iterator[None]:
    """Within the block SIGTERM ends what runs as an interruption does; `errors_shown` says so and exits with 143."""

    def end(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what is going on is being tidied up
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def errors_shown(as_json: bool, verbose: bool) -> Iterator[None]:
    """Errors as users meet them: one line and exit code 2 for what they can mend, 1 for the rest.

    With `as_json` stdout is kept for `print_json`: what libraries and their processes print there goes to stderr.
    """
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with _answer_alone() if as_json else nullcontext(), _errors_shown(as_json, verbose):
        yield


@contextmanager
def _answer_alone() -> Iterator[None]:
    """Keep stdout for the answer; where it is no file of the system (a notebook, a test) it stays as it is."""
    try:
        place, elsewhere = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):
        yield
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(place), "w") as answers:
        os.dup2(elsewhere, place)
        _ANSWERS.append(answers)
        try:
            yield
        finally:
            _ANSWERS.remove(answers)
            sys.stdout.flush()
            os.dup2(answers.fileno(), place)


@contextmanager
def _errors_shown(as_json: bool, verbose: bool) -> Iterator[None]:
    """See `errors_shown`."""
    try:
        yield
    except PolychoirError as error:
        _fail(str(error), 2 if isinstance(error, UserError) else 1, as_json, verbose)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on where it stopped", 130, as_json, verbose=False)
    except Terminated:
        _fail("terminated; run the same command again to go on where it stopped", 143, as_json, verbose=False)
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except typer.Exit:
        raise
    except Exception as error:
        traceback.print_exc()
        _fail(f"this is a bug in Polychoir: {type(error).__name__}: {error}", 1, as_json, verbose=False)


def check_dataset(dataset: str, store: Path) -> None:
    """Find out at once, not after a server has started, that there is no such dataset or its source is malformed.

    Raises:
        DataError: there is none of that name.
        ConfigError: the SOURCE.yaml does not validate.
    """
    from training_core.data.source import load_source
    from training_core.data.storage.store import DatasetStore

    if dataset.endswith((".yaml", ".yml")):
        load_source(Path(dataset))
    else:
        DatasetStore(store / "datasets").open(dataset)


def print_json(value: Config | Mapping[str, Any], **more: Any) -> None:
    """One JSON object on stdout: what is given, with further keys."""
    plain = json.loads(value.model_dump_json()) if isinstance(value, Config) else value
    print(json.dumps({**plain, **more}), file=_ANSWERS[-1] if _ANSWERS else sys.stdout, flush=True)


def request_of(kind: type[Asked], given: Mapping[str, Any], sets: list[str] | None, where: str) -> Asked:
    """What was asked for, as a value: the options that were given, with `--set` overrides on top.

    Args:
        kind: of the value.
        given: by field; None is what was not given.
        sets: the overrides.
        where: the command, for errors.

    Raises:
        ConfigError: one line naming the key, what was got and what was expected.
    """
    values = {name: value for name, value in given.items() if value is not None}
    return kind.parse(merged(values, parse_overrides(sets or [])), where)


def facts() -> Table:
    """Rows of a name and what there is to say of it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def overall_progress(console: Console) -> Progress:
    """A bar for a whole run: what it is at, how far it is, and in the field `left` the time that is left."""
    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )


def screen(stderr: bool = False) -> Console:
    """A console; wide enough for the tables when it is no terminal, whose width nobody knows."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120
    return console


def _fail(message: str, code: int, as_json: bool, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    if as_json:
        print_json({"error": message})
    screen(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    raise typer.Exit(code)
