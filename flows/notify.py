"""The flow that writes down what people ought to know; automations start it."""

from prefect import flow

from tasks.notices import write_notice


@flow(name="notify", flow_run_name="{subject}")
def notify(subject: str = "", body: str = "") -> None:
    """Write a notice to the log and as an artefact, where nothing else was set up to carry it to people.

    Args:
        subject: what it is about, in a few words.
        body: what happened.
    """
    write_notice(subject, body)
