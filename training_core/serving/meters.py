"""What the server counts, as text that Prometheus reads: requests, rows, times, which modalities were missing."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable

import numpy as np

from training_core.serving.current import CurrentModel

QUANTILES = (0.5, 0.95, 0.99)
_REMEMBERED = 2048
"""Times of the last so many answers, from which the quantiles are taken."""


class Meters:
    """Counts since the start; any thread may add to them. No row, and nothing of what rows hold, is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.time()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._missing: Counter[str] = Counter()
        self._num_rows = 0
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self._num_answers = 0
        self._sum_seconds = 0.0

    def count_request(self, path: str, status: int) -> None:
        """A request to one of the known paths was answered with `status`."""
        with self._lock:
            self._requests[path, status] += 1

    def count_answer(self, num_rows: int, missing: Iterable[str], seconds: float) -> None:
        """Rows were answered; `missing` names a modality as often as a row lacked it; `seconds` it all took."""
        with self._lock:
            self._num_rows += num_rows
            self._missing.update(missing)
            self._seconds.append(seconds)
            self._num_answers += 1
            self._sum_seconds += seconds

    def text(self, current: CurrentModel, in_progress: int) -> str:
        """All of it, in the text format of Prometheus (version 0.0.4)."""
        with self._lock:
            requests, missing = dict(self._requests), dict(self._missing)
            times = np.array(self._seconds)
            num_rows, num_answers, sum_seconds = self._num_rows, self._num_answers, self._sum_seconds
        served = current.now
        lines = [
            *_head("requests_total", "counter", "Requests answered, by path and status."),
            *(
                f'polychoir_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(requests.items())
            ),
            *_head("rows_total", "counter", "Rows answered."),
            f"polychoir_rows_total {num_rows}",
            *_head("missing_total", "counter", "Rows answered that lacked a modality."),
            *(
                f'polychoir_missing_total{{modality="{_escaped(name)}"}} {missing.get(name, 0)}'
                for name in served.ensemble.spec.names
            ),
            *_head("answer_seconds", "summary", f"Time of an answered request; quantiles of the last {_REMEMBERED}."),
            *(
                f'polychoir_answer_seconds{{quantile="{share}"}} {np.quantile(times, share) if len(times) else "NaN"}'
                for share in QUANTILES
            ),
            f"polychoir_answer_seconds_sum {sum_seconds}",
            f"polychoir_answer_seconds_count {num_answers}",
            *_head("in_progress", "gauge", "Requests taken in and not answered yet."),
            f"polychoir_in_progress {in_progress}",
            *_head("model_info", "gauge", "The model that answers."),
            f'polychoir_model_info{{model="{_escaped(served.uri)}"}} 1',
            *_head("model_since_seconds", "gauge", "When it began to answer, in seconds since the epoch."),
            f"polychoir_model_since_seconds {served.since}",
            *_head("model_changes_total", "counter", "Times another model took over."),
            f"polychoir_model_changes_total {current.num_changes}",
            *_head("model_failures_total", "counter", "Times a new model could not take over."),
            f"polychoir_model_failures_total {current.num_failures}",
            *_head("start_time_seconds", "gauge", "When the server began, in seconds since the epoch."),
            f"polychoir_start_time_seconds {self._began}",
        ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP polychoir_{name} {text}", f"# TYPE polychoir_{name} {kind}"]


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
