"""The task that writes a notice for people: to the log of the run, and as an artefact under the key `notices`."""

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact


@task(name="write-notice", task_run_name="notice")
def write_notice(subject: str, body: str) -> None:
    """Log a notice as a warning, and keep it as an artefact; they share a key, so the UI shows a history."""
    get_run_logger().warning("%s: %s", subject, body)
    create_markdown_artifact(f"**{subject}**\n\n{body}", key="notices", description=subject)
