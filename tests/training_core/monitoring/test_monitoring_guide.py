import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.views import HeldSamples
from training_core.evaluation.predictions import Predictions

GUIDE = Path(__file__).parents[3] / "docs" / "MONITORING.md"


def test_the_guide_runs_as_it_is_written(tmp_path):
    random = np.random.default_rng(0)

    values = random.normal(size=(400, 3)).astype(np.float32)
    target = (values[:, 0] + random.normal(size=400) > 0).astype(int)
    dataset = create_dataset_from_arrays("shoes", {"left": values}, target, task="classification", store=tmp_path)
    moved = replace(dataset.samples(), inputs={"left": values + np.float32(1)})

    def predict(samples):
        yes = 1 / (1 + np.exp(-4 * samples.inputs["left"][:, 0].astype(np.float64)))
        return Predictions(np.column_stack([1 - yes, yes]), np.maximum(yes, 1 - yes), np.ones(len(yes), np.int64))

    found = {
        "dataset": dataset,
        "november": SimpleNamespace(subset=lambda: HeldSamples(moved, dataset.spec)),
        "ensemble": SimpleNamespace(predict=predict),
        "folder": tmp_path,
        "past_reports": [],
    }
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(code) == 1
    exec(code[0], found)
    assert found["report"].verdict == "drift"
    assert found["report"].window_rows == 400
    assert found["watch"].num_windows == 1
    assert found["watch"].confirmed == {}
