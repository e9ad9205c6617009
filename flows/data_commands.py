"""The commands about data: prepare, append, datasets, inspect, verify, diff, gc."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from flows.console import DEFAULT_STORE, AsJson, Sets, Store, Verbose, errors_shown, print_json, screen
from training_core.errors import StorageError

if TYPE_CHECKING:
    from training_core.data.storage.store import Dataset, DatasetStore

app = typer.Typer()

Source = Annotated[Path, typer.Argument(help="SOURCE.yaml that describes the files.", metavar="SOURCE.yaml")]
Name = Annotated[str, typer.Argument(help="A dataset: name, name@latest or name@version.", metavar="NAME[@VERSION]")]
Strict = Annotated[bool, typer.Option("--strict", help="Let no warning of the quality gate pass either.")]
Quarantine = Annotated[
    bool, typer.Option("--quarantine", help="Set rows that cannot be used aside instead of refusing the source.")
]


@app.command(epilog="Example: polychoir prepare shoes/source.yaml --set split.test=0.2")
def prepare(
    source: Source,
    strict: Strict = False,
    quarantine: Quarantine = False,
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Check the files a SOURCE.yaml describes and publish them as an immutable, versioned dataset."""
    with errors_shown(as_json, verbose):
        from training_core.artifacts import private_folder
        from training_core.data.ingestion.ingest import prepare_dataset

        private_folder(store)
        _publish(prepare_dataset, source, _datasets(store), _overrides(sets, strict, quarantine), as_json)


@app.command(epilog="Example: polychoir append shoes/november.yaml")
def append(
    source: Source,
    strict: Strict = False,
    quarantine: Quarantine = False,
    store: Store = DEFAULT_STORE,
    sets: Sets = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Add the rows a SOURCE.yaml describes to the dataset it names, as a new version that shares the old files."""
    with errors_shown(as_json, verbose):
        from training_core.data.ingestion.ingest import append_to_dataset

        _publish(append_to_dataset, source, _datasets(store), _overrides(sets, strict, quarantine), as_json)


@app.command(epilog="Example: polychoir datasets --json")
def datasets(store: Store = DEFAULT_STORE, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List the datasets of a store: latest version, rows, modalities, size, age."""
    with errors_shown(as_json, verbose):
        from flows.data_screen import datasets_table

        kept = _datasets(store)
        found, damaged = [], {}
        for name in kept.names():
            try:
                found.append((kept.open(name), kept.versions(name)))
            except StorageError as error:
                damaged[name] = str(error)
        for name, problem in damaged.items():
            screen(stderr=True).print(Text(f"{name} cannot be opened: {problem}", style="yellow"), soft_wrap=True)
        if as_json:
            print_json({"datasets": [_summary(dataset, versions) for dataset, versions in found], "damaged": damaged})
        elif found:
            screen().print(datasets_table(found))
        elif not damaged:
            screen(stderr=True).print(
                f"no datasets in {kept.root} yet; prepare one with: polychoir prepare SOURCE.yaml"
            )


@app.command(epilog="Example: polychoir inspect shoes@latest --rows 10")
def inspect(
    name: Name,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Sample rows to show.")] = 5,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show what is in a dataset: schema, sizes, which modalities are missing, quality findings, samples, lineage."""
    with errors_shown(as_json, verbose):
        from training_core.data.storage.description import describe

        kept = _datasets(store)
        found = describe(kept, kept.open(name), rows)
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from flows.data_screen import show_description

        show_description(screen(), found)


@app.command(epilog="Examples: polychoir verify shoes  ·  polychoir verify")
def verify(
    name: Annotated[
        str | None, typer.Argument(help="A dataset; all versions of all datasets by default.", metavar="NAME[@VERSION]")
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Read every file of a dataset and compare it with its checksum."""
    with errors_shown(as_json, verbose):
        kept = _datasets(store)
        refs = [name] if name else [f"{n}@{version}" for n in kept.names() for version in kept.versions(n)]
        verified, damaged = [], {}
        for ref in refs:
            try:
                dataset = kept.open(ref)
                kept.verify(dataset)
            except StorageError as error:
                damaged[ref] = str(error)
                continue
            verified.append(dataset.ref)
            if not as_json:
                screen().print(f"{dataset.ref}  whole, {dataset.num_rows:,} rows")
        if as_json and not damaged:
            print_json({"verified": verified})
        if damaged:
            raise StorageError("; ".join(f"{ref} is damaged: {problem}" for ref, problem in damaged.items()))


@app.command(epilog="Example: polychoir diff shoes@1f3a shoes@latest")
def diff(old: Name, new: Name, store: Store = DEFAULT_STORE, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Compare two versions: rows that came and went, schema, availability, distributions."""
    with errors_shown(as_json, verbose):
        from training_core.data.storage.history import diff as difference

        kept = _datasets(store)
        found = difference(kept.open(old), kept.open(new))
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from flows.data_screen import show_diff

        show_diff(screen(), found)


@app.command(epilog="Example: polychoir gc shoes --keep 3 --dry-run")
def gc(
    name: Annotated[str | None, typer.Argument(help="A dataset; all by default.", metavar="NAME")] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Versions to keep, the newest; all by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Remove what no version needs: parts of removed versions, what killed writers left, with --keep old versions.

    The latest version and versions that someone is reading always stay.
    """
    with errors_shown(as_json, verbose):
        from flows.data_screen import collected_line

        kept = _datasets(store)
        found = {n: kept.gc(n, keep, dry_run) for n in ([name] if name else kept.homes())}
        if as_json:
            print_json({n: collected.model_dump(mode="json") for n, collected in found.items()})
            return
        for n, collected in found.items():
            screen().print(collected_line(n, collected, dry_run))


def _datasets(store: Path) -> "DatasetStore":
    from training_core.data.storage.store import DatasetStore

    return DatasetStore(store / "datasets")


def _latest(kept: "DatasetStore", source: Path, overrides: dict[str, Any]) -> "Dataset | None":
    """The latest version of the dataset a source names; None when there is none that can be read."""
    from training_core.data.source import load_source

    name = load_source(source, overrides)[0].name
    try:
        return kept.open(name) if kept.versions(name) else None
    except StorageError:
        return None


def _overrides(sets: list[str] | None, strict: bool, quarantine: bool) -> dict[str, Any]:
    from training_core.settings import parse_overrides

    flags = [f"quality.{flag}=true" for flag, on in (("strict", strict), ("quarantine", quarantine)) if on]
    return parse_overrides([*flags, *(sets or [])])


def _summary(dataset: "Dataset", versions: tuple[str, ...]) -> dict[str, Any]:
    return {
        "dataset": dataset.ref,
        "versions": list(versions),
        "rows": dataset.manifest["splits"],
        "modalities": {modality.name: modality.kind for modality in dataset.spec.modalities},
        "task": dataset.spec.task.kind,
        "bytes": dataset.num_bytes(),
        "created": dataset.manifest["created"],
    }


def _publish(
    publish: "Callable[[Path, DatasetStore, dict[str, Any]], Dataset]",
    source: Path,
    kept: "DatasetStore",
    overrides: dict[str, Any],
    as_json: bool,
) -> None:
    """Publish a source, then say what was published: its name on stdout, sizes and findings on stderr."""
    from flows.data_screen import show_published

    before = _latest(kept, source, overrides)
    dataset = publish(source, kept, overrides)
    if as_json:
        quality = dataset.quality() or {"findings": []}
        findings = [finding for finding in quality["findings"] if not finding["accepted"]]
        rows = {part: dataset.manifest["splits"].get(part, 0) for part in ("train", "validation", "test")}
        print_json(
            {
                "dataset": dataset.ref,
                "fingerprint": dataset.fingerprint,
                "path": str(dataset.path),
                "rows": rows,
                "quarantined": dataset.manifest["splits"].get("quarantined", 0),
                "available": dataset.manifest["available"],
                "findings": findings,
            }
        )
        return
    show_published(screen(stderr=True), dataset, before)
    print(dataset.ref)
