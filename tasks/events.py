"""Telling Prefect what happened to a model, so that automations can act on it and people can be told."""

from collections.abc import Mapping
from typing import Any, Literal

from prefect.events import emit_event

ModelEvent = Literal["drift.detected", "model.promoted", "model.refused", "model.rolled-back", "retrain.refused"]


def tell(event: ModelEvent, model: str, payload: Mapping[str, Any]) -> None:
    """Emit `polychoir.<event>` about the resource `polychoir.model.<model>`.

    Events are at least once: whoever is killed after a deed and before telling of it tells when it is run again, and
    maintenance tells of what it completes. So what an event starts has to bear being started twice.

    Args:
        event: what happened.
        model: the registered name, without version.
        payload: JSON values; automations read them as `{{ event.payload.<key> }}`. The model is added.
    """
    emit_event(
        event=f"polychoir.{event}",
        resource={"prefect.resource.id": f"polychoir.model.{model}", "prefect.resource.name": model},
        payload={"model": model, **payload},
    )
