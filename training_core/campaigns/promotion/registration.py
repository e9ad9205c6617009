"""From a trained ensemble to a version in the registry that has its place there: champion or challenger."""

import logging
from collections.abc import Mapping
from pathlib import Path

from training_core.artifacts import ArtifactRef
from training_core.campaigns import recording
from training_core.campaigns.promotion.verbs import enter
from training_core.campaigns.recording import RecordRef
from training_core.campaigns.summary import Judgement
from training_core.errors import PolychoirError
from training_core.jobs import DatasetRef

_log = logging.getLogger(__name__)


def register(
    record: RecordRef, ref: DatasetRef, ensemble: ArtifactRef, judgement: Judgement, tags: Mapping[str, str]
) -> str:
    """`recording.register`, and then `verbs.enter`: the first version of a name becomes champion, others challenger.

    An ensemble is worth more than its alias: where the registry fails between the two, a warning says so, and the same
    command enters the version when it is run again.

    Returns:
        `models:/name/version`, or the ensemble's directory where there is no registry.
    """
    uri = recording.register(record, ref, ensemble, judgement, tags)
    try:
        enter(uri, Path(record.store), tags.get("prefect.flow_run_id", ""))
    except PolychoirError as error:
        _log.warning("%s is registered, but neither champion nor challenger yet: %s", uri, error)
    return uri
