"""The flow that publishes a version of a data set from its source."""

from pathlib import Path

from prefect import flow

from tasks.data import prepare_data, publish_quality
from training_core.jobs import DatasetRef


@flow(name="prepare-data", flow_run_name="prepare {source}")
def prepare_data_flow(source: str, store: str = ".polychoir") -> DatasetRef:
    """Check the files that a source describes and publish them as a version; at once when nothing in them changed.

    Args:
        source: path of a SOURCE.yaml on the machine that runs the flow.
        store: folder that keeps datasets; made when absent.
    """
    dataset = prepare_data(source, Path(store).resolve())
    publish_quality(dataset)
    return dataset
