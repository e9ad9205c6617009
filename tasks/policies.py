"""The only place that says what is retried, what is cached, and by which key.

Whatever has files (datasets, learners, ensembles) is kept by the core under a name that is a hash of its inputs, so a
task that asks for it again finds it. Prefect's cache holds only results that are small JSON values and nothing else.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from prefect import Task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from pydantic import BaseModel

from training_core.config import canonical_json
from training_core.errors import TransientError
from training_core.jobs import core_fingerprint

NUM_RETRIES = 1
RETRY_DELAY_SECONDS = 2


def is_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is worth a retry: only when the outside world failed, never for our own errors."""
    try:
        state.result()
    except TransientError:
        return True
    except Exception:
        return False
    return False


def _core_fingerprint_key(context: TaskRunContext, inputs: Mapping[str, Any]) -> str:
    """Task name, core version and inputs. `TASK_SOURCE` would hash the thin wrapper only and miss a core change."""
    values = {name: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for name, v in inputs.items()}
    text = canonical_json([context.task.name, core_fingerprint(), values])
    return hashlib.sha256(text.encode()).hexdigest()


CORE_FINGERPRINT = CacheKeyFnPolicy(cache_key_fn=_core_fingerprint_key)
"""Cached for as long as the core, the data, the configuration and the seed are what they were."""
