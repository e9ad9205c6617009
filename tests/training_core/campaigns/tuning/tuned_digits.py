"""A process that tunes a small net on digits, to be killed."""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import training_core as pc


def main() -> None:
    """`tuned_digits.py STORE WORKERS [MODE]`: tune, telling every trial; the trials as JSON on the last line."""
    store, workers, mode = Path(sys.argv[1]), int(sys.argv[2]), (*sys.argv[3:], "deterministic")[0]
    pixels, labels = load_digits(return_X_y=True)
    summary = pc.tune(
        {"left": pixels[:240, :32].astype(np.float32), "right": pixels[:240, 32:].astype(np.float32)},
        store,
        lambda event: print(json.dumps(event), flush=True),
        target=labels[:240],
        tuning={
            "trials": 6,
            "batch": 3,
            "startup_trials": 3,
            "min_epochs": 1,
            "learner": "tabular_mlp",
            "fields": ("training.lr", "training.weight_decay", "tabular_mlp.dropout"),
            "mode": mode,
        },
        training={"epochs": 6, "patience": 6},
        tabular_mlp={"width": 8},
        budget={"workers": workers},
    )
    rows = [(t.number, t.state, dict(t.params), t.values, t.curve) for t in summary.trials]
    print(json.dumps({"trials": rows, "counts": dict(summary.counts)}))


if __name__ == "__main__":
    main()
