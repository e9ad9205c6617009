"""Trains AutoGluon on a folder of tables and writes its answers; run by the Python of an environment that has it."""

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def main() -> None:
    from autogluon.tabular import TabularPredictor  # pyright: ignore[reportMissingImports]

    folder = Path(sys.argv[1])
    order: dict[str, Any] = json.loads((folder / "order.json").read_text())
    train = pd.read_parquet(folder / "train.parquet")
    regression = order["kind"] == "regression"
    kind = "regression" if regression else "binary" if order["num_outputs"] == 2 else "multiclass"
    shutil.rmtree(folder / "models", ignore_errors=True)
    started, before = time.monotonic(), cpu_seconds()
    predictor = TabularPredictor(
        "__target__",
        problem_type=kind,
        eval_metric="r2" if regression else "log_loss",
        path=str(folder / "models"),
        verbosity=0,
    ).fit(  # its trial of stacking on a part of the rows leaves, within short limits, a predictor that cannot be fitted
        train, presets=order["preset"], time_limit=order["seconds"], dynamic_stacking=False
    )
    told = {"seconds": time.monotonic() - started, "cpu_seconds": cpu_seconds() - before}
    for number in range(order["num_asked"]):
        asked = pd.read_parquet(folder / f"asked_{number:03d}.parquet")
        if regression:
            answer = predictor.predict(asked).to_numpy().reshape(-1, 1)
        else:
            found = predictor.predict_proba(asked)
            answer = np.zeros((len(asked), order["num_outputs"]))
            answer[:, [int(name) for name in found.columns]] = found.to_numpy()
        np.save(folder / f"answer_{number:03d}.npy", answer.astype(np.float64))
    (folder / "told.json").write_text(json.dumps(told))


def cpu_seconds() -> float:
    """Of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
