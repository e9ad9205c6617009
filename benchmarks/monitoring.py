"""How often monitoring cries wolf, and how soon it sees a change.

`python benchmarks/monitoring.py` measures false alarms and power on Gaussian features and on images of digits;
`--elec2 FILE` adds the electricity market of New South Wales (`elec.csv`, 45,312 half hours in time order): windows of
a shuffled copy, in which nothing drifts, and weekly windows in time order, in which `vicdemand` and `transfer` change
at row 17,424.

A window alarms when anything in it warns; "confirmed" alarms when a check has warned in two successive windows.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from training_core.data.views import HeldSamples
from training_core.evaluation.predictions import Predictions
from training_core.monitoring import (
    DriftConfig,
    DriftWatch,
    ReferenceProfile,
    Window,
    calibrate,
    compare,
    make_profile,
    reference_for,
)
from training_core.schema import ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

WEEK = 336
CHANGE = 17_424
REFERENCE_WEEKS = 26
VIEWS = {"nsw": ("period", "nswprice", "nswdemand"), "vic": ("vicprice", "vicdemand", "transfer")}


def gaussian(num_rows: int, shift: float, seed: int, num_features: int = 20) -> HeldSamples:
    """Rows of independent features, the first three shifted by `shift` standard deviations."""
    values = np.random.default_rng(seed).normal(size=(num_rows, num_features))
    values[:, :3] += shift
    columns = tuple(ColumnSpec(name=f"x{i}") for i in range(num_features))
    table = ModalitySpec(name="facts", kind="tabular", shape=(num_features,), columns=columns)
    return held({"facts": values}, (table,), None)


def held(inputs: dict[str, np.ndarray], modalities: Sequence[ModalitySpec], target: np.ndarray | None) -> HeldSamples:
    """Rows in memory that have every modality."""
    num_rows = len(next(iter(inputs.values())))
    samples = Samples(
        inputs=inputs,
        available={name: np.ones(num_rows, bool) for name in inputs},
        ids=np.arange(num_rows).astype(str).astype(object),
        target=target,
    )
    return HeldSamples(samples, DataSpec(modalities=tuple(modalities), task=TaskSpec.classification(2)))


def gaussian_part(windows: int) -> None:
    profile = make_profile(gaussian(20_000, 0.0, 0), "gaussian")
    print(f"\n20 Gaussian features, {windows} windows: share that alarms, nothing shifted | 3 shifted by .5, .8, 1 sd")
    for num_rows in (50, 100, 200, 500, 1000):
        alarms = []
        for shift in (0.0, 0.5, 0.8, 1.0):
            reports = [compare(profile, gaussian(num_rows, shift, 1000 + seed)) for seed in range(windows)]
            alarms.append(np.mean([report.verdict in {"warning", "drift"} for report in reports]))
        print(f"{num_rows:6d} rows  {alarms[0]:.3f} | " + "  ".join(f"{share:.3f}" for share in alarms[1:]), flush=True)
    window = gaussian(200, 0.0, 1)
    start = time.process_time()
    for _ in range(20):
        compare(profile, window)
    print(f"a window of 200 rows takes {(time.process_time() - start) / 20 * 1000:.1f} ms of CPU")


def arrays_part(windows: int) -> None:
    """Images of digits: a reference of 900, windows drawn from the 897 others, as they are or changed."""
    from sklearn.datasets import load_digits

    pixels = load_digits().images.astype(np.float32)[:, None] / 16
    order = np.random.default_rng(0).permutation(len(pixels))
    image = (ModalitySpec(name="photo", kind="image", shape=(1, 8, 8)),)
    profile = make_profile(held({"photo": pixels[order[:900]]}, image, None), "digits")
    noise = np.random.default_rng(1)
    changes = {
        "as they are": lambda photo: photo,
        "brighter by .1": lambda photo: photo + 0.1,
        "noise of .3": lambda photo: photo + noise.normal(0, 0.3, photo.shape),
        "a pixel to the right": lambda photo: np.roll(photo, 1, axis=3),
        "1 in 4 upside down": lambda photo: np.where(
            noise.random((len(photo), 1, 1, 1)) < 0.25, photo[:, :, ::-1], photo
        ),
    }
    print(
        f"\ndigits 8 x 8, {windows} windows: share that alarms, by the array as a whole, with 100 and 300 rows; shift"
    )
    for name, change in changes.items():
        shown = []
        for num_rows in (100, 300):
            raised, whole, shifts = [], [], []
            for seed in range(windows):
                rows = np.random.default_rng(seed).choice(order[900:], num_rows, replace=False)
                report = compare(profile, held({"photo": change(pixels[rows]).astype(np.float32)}, image, None))
                raised.append(bool(report.drifted))
                whole.append("array/photo" in report.drifted)
                shifts.append(report.check("array/photo").shift)
            shown.append(f"{np.mean(raised):.2f} {np.mean(whole):.2f} {np.mean(shifts):.2f}")
        print(f"  {name:22s} {'   '.join(shown)}", flush=True)


def elec2(frame: pd.DataFrame) -> HeldSamples:
    modalities = [
        ModalitySpec(
            name=name, kind="tabular", shape=(len(columns),), columns=tuple(ColumnSpec(name=c) for c in columns)
        )
        for name, columns in VIEWS.items()
    ]
    inputs = {name: frame[list(columns)].to_numpy(np.float64, copy=True) for name, columns in VIEWS.items()}
    return held(inputs, modalities, frame["class"].to_numpy(np.int64, copy=True))


class Frozen:
    """A model that was fitted once, as monitoring asks it: a logistic regression."""

    def __init__(self, rows: HeldSamples) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        samples = rows.samples()
        self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self._model.fit(np.concatenate(list(samples.inputs.values()), axis=1), samples.target)

    def __call__(self, samples: Samples) -> Predictions:
        """Probabilities of the classes."""
        values = self._model.predict_proba(np.concatenate(list(samples.inputs.values()), axis=1))
        return Predictions(values, values.max(axis=1), np.ones(len(values), np.int64))


def shuffled_part(frame: pd.DataFrame, seeds: int) -> None:
    windows = alarming = confirmed = 0
    for seed in range(seeds):
        rows = elec2(frame.sample(frac=1, random_state=seed))
        first = REFERENCE_WEEKS * WEEK
        model = Frozen(rows.subset(np.arange(first // 2)))
        profile = make_profile(rows.subset(np.arange(first // 2, first)), "elec2", model)
        watch = DriftWatch()
        for start in range(first, len(rows) - WEEK + 1, WEEK):
            report = compare(profile, rows.subset(np.arange(start, start + WEEK)), predict=model)
            watch = watch.seen(report)
            windows += 1
            alarming += bool(report.drifted)
            confirmed += bool(watch.confirmed)
    print(
        f"\nelec2 shuffled, {seeds} orders, {windows} windows of {WEEK} rows, {report.num_tests} tests each: "
        f"{alarming / windows:.2%} alarm, {confirmed / windows:.2%} confirmed"
    )


def streamed_part(frame: pd.DataFrame) -> None:
    rows = elec2(frame)
    first = REFERENCE_WEEKS * WEEK
    model = Frozen(rows.subset(np.arange(first // 2)))
    profile = make_profile(rows.subset(np.arange(first)), "elec2", model)
    starts = range(0, len(rows) - WEEK + 1, WEEK)
    tallies = [profile.measure(rows.subset(np.arange(start, start + WEEK)), model) for start in starts]
    windows = [Window(label=str(place), tally=tally) for place, tally in enumerate(tallies)]
    watched = [f"input/{view}.{column}" for view, columns in VIEWS.items() for column in columns]
    print(f"\nelec2 in time order, {REFERENCE_WEEKS} weeks of reference; row {CHANGE} lies in week {CHANGE // WEEK}")
    for kind in ("training", "rolling"):
        config = DriftConfig(reference=kind)
        for calibrated in (False, True):
            known = calibrate(profile, windows[:REFERENCE_WEEKS], config) if calibrated else profile
            followed(known, windows, config, watched, f"{kind}{', calibrated' if calibrated else ''}")


def followed(
    profile: ReferenceProfile, windows: Sequence[Window], config: DriftConfig, watched: Sequence[str], title: str
) -> None:
    """Print how often each feature warned before the change, and how long after it it was first confirmed."""
    watch = DriftWatch()
    before = dict.fromkeys(watched, 0)
    seen: dict[str, int] = {}
    whole = CHANGE // WEEK  # the first week with rows after the change
    for place in range(REFERENCE_WEEKS, len(windows)):
        reference = reference_for(profile, windows[:place], config)
        report = compare(reference, windows[place].tally, config, label=windows[place].label)
        watch = watch.seen(report)
        for name in watched:
            before[name] += place < whole and name in report.drifted
            if place >= whole and name in watch.confirmed:
                seen.setdefault(name, (place + 1) * WEEK - CHANGE)
    print(f"  {title}: warned in weeks before the change, of {whole - REFERENCE_WEEKS} | rows after it till confirmed")
    for name in watched:
        print(f"    {name.partition('/')[2]:16s} {before[name]:3d} | {seen.get(name, 'never')}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=300, help="Gaussian windows for each size")
    parser.add_argument("--elec2", type=Path, help="elec.csv")
    parser.add_argument("--seeds", type=int, default=3, help="orders in which elec2 is shuffled")
    given = parser.parse_args()
    if given.windows:
        gaussian_part(given.windows)
        arrays_part(max(1, given.windows // 5))
    if given.elec2:
        electricity = pd.read_csv(given.elec2)
        shuffled_part(electricity, given.seeds)
        streamed_part(electricity)
