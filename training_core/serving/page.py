"""The page at /docs: how this model is asked and what it answers, with nothing loaded from elsewhere."""

import html
import json
import shlex
from collections.abc import Iterable

from training_core.pages.document import document, figures, lead
from training_core.pages.tables import CODE, table
from training_core.quantities import format_bytes
from training_core.schema import ModalitySpec
from training_core.serving.config import ServingConfig
from training_core.serving.current import Served
from training_core.serving.interface import example_sample

_PATHS = (
    ("POST /predict", "answers samples"),
    ("GET /schema", "what each modality looks like, as JSON"),
    ("GET /health", "whether the model answers, and which version it is"),
    ("GET /metrics", "counts and times, for Prometheus"),
    ("GET /openapi.json", "this page for programs (OpenAPI 3.1)"),
)
_MAX_LISTED = 12


def docs_page(served: Served, config: ServingConfig, address: str) -> str:
    """The page as HTML; `address` is where the reader found it, such as `http://127.0.0.1:8770`."""
    ensemble, task = served.ensemble, served.ensemble.task
    names = task.targets if task.kind == "regression" else task.classes
    body = json.dumps({"sample": example_sample(ensemble.spec)}, ensure_ascii=False)
    header = f' -H "Authorization: Bearer ${config.token_env}"' if config.token_env else ""
    command = f"curl {address}/predict -H 'Content-Type: application/json'{header} -d {shlex.quote(body)}"
    rows = [[CODE + m.name, m.kind, _takes(m)] for m in ensemble.spec.modalities]
    parts = [
        f"<h1>{html.escape(ensemble.name)}</h1>",
        lead(f"{served.uri}, {task.kind} of {_listed(names)}; it answers whatever modalities a sample lacks."),
        figures(
            [
                (str(len(ensemble.spec.names)), "modalities"),
                (f"{config.max_rows:,}", "rows at once"),
                (format_bytes(config.max_bytes), "per request"),
                (f"{config.timeout_seconds:g} s", "for an answer"),
            ]
        ),
        "<h2>Ask it</h2>",
        f"<pre><code>{html.escape(command)}</code></pre>",
        '<p class="note">In place of <code>sample</code>: <code>samples</code>, a list of them, or '
        "<code>inputs</code>, values of many samples by modality. What is left out or null is missing. Arrays may "
        'be given as <code>{"npy": "…"}</code>, an .npy file in base64.</p>',
        "<h2>What goes in</h2>",
        table(["modality", "kind", "one sample"], rows),
        "<h2>Paths</h2>",
        table(["path", "for"], [[CODE + path, text] for path, text in _PATHS]),
    ]
    return document(f"{ensemble.name}: a served model", parts)


def _takes(modality: ModalitySpec) -> str:
    if modality.kind == "text":
        return "one text"
    if modality.kind == "tabular":
        return _listed(
            column.name if column.categories is None else f"{column.name} ({_listed(column.categories)})"
            for column in modality.columns
        )
    return f"numbers of shape {list(modality.shape)}"


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    rest = len(shown) - _MAX_LISTED
    return ", ".join(shown[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
