"""Tasks about data: name a dataset version, cut it into bags."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact

from tasks.policies import NUM_RETRIES, RETRY_DELAY_SECONDS, is_transient
from tasks.progress import stage
from training_core.campaigns import bagging
from training_core.campaigns.run_config import RunConfig
from training_core.data.splitting.bags import Bag
from training_core.jobs import DatasetRef


@task(
    name="prepare-data",
    task_run_name="prepare data",
    retries=NUM_RETRIES,
    retry_delay_seconds=RETRY_DELAY_SECONDS,
    retry_condition_fn=is_transient,
)
def prepare_data(name_or_source: str, store: Path) -> DatasetRef:
    """Find a dataset version, or publish one from its source; see `campaigns.bagging.resolve_dataset`."""
    stage(f"preparing {name_or_source}")
    return bagging.resolve_dataset(name_or_source, store)


@contextmanager
def in_use(dataset: DatasetRef) -> Iterator[None]:
    """For as long as the block lasts nobody may remove the version of the data set, which tasks open and close."""
    with closing(bagging.open_dataset(dataset)):
        yield


@task(name="publish-quality", task_run_name="publish quality report")
def publish_quality(dataset: DatasetRef) -> None:
    """Show what the quality gate found in the Prefect UI; see `training_core.data.quality`."""
    found = bagging.open_dataset(dataset).quality() or {"findings": []}
    create_table_artifact(found["findings"], key="quality", description=dataset.label)


@task(name="make-bags", task_run_name="make bags")
def make_bags(run: RunConfig, dataset: DatasetRef, utilities: Mapping[str, float]) -> tuple[Bag, ...]:
    """Cut the training rows, modalities and columns into bags; see `training_core.data.splitting.bags.make_bags`."""
    return bagging.bags_of(run, dataset, utilities)
