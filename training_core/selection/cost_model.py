"""What training a learner will take, predicted before it is trained: seconds and peak bytes.

Every kind counts its own work (`LearnerBase.estimate_cost`); what a unit of work takes differs between kinds and was
measured. `benchmarks/cost_model.py` makes this table again.

    seconds = start + work · per_unit
"""

from typing import NamedTuple

from training_core.learners import LearnerBase
from training_core.schema import DataSpec
from training_core.variants import kind_of


class Rate(NamedTuple):
    """What a kind of learner takes on the machine it was measured on."""

    start: float
    """Seconds however small the data."""
    per_unit: float
    """Seconds per multiply-add counted."""


RATES: dict[str, Rate] = {
    "tabular_mlp": Rate(0.074, 3.3e-10),
    "image_cnn": Rate(0.2, 8.2e-11),
    "fusion_net": Rate(0.09, 6.5e-10),
    "tabular_transformer": Rate(0.14, 1.9e-10),
    "tabular_resnet": Rate(0.038, 2.2e-10),
    "sequence_net": Rate(0.28, 8.3e-11),
    "text_net": Rate(0.1, 3.4e-10),
    "linear": Rate(0.076, 2e-10),
    "kernel_ridge": Rate(0.057, 3.2e-11),
    "hist_boosting": Rate(0.16, 5.5e-09),
    "lightgbm": Rate(0.05, 1.5e-09),
    "extra_trees": Rate(0.81, 1.3e-09),
    "tfidf_linear": Rate(0.27, 2.1e-09),
}
"""Measured 2026-11-21 on one core of an x86-64 cloud machine; busy with other work at the time. The lines meet the four
points each was fitted to within a factor of 1.6 (text: 3); other shapes of data were not measured. That of lightgbm was
drawn through digits, breast cancer, diabetes and a set of 19,000 texts instead, which it meets within a factor of 3."""
_UNMEASURED = Rate(0.5, 1e-9)
"""Assumed of a kind that is not in the table: a second per 10⁹ multiply-adds."""
PROCESS_BYTES = 400e6
"""Resident memory of a process that has loaded its libraries and no data, added to what a learner counts."""


class Cost(NamedTuple):
    """A prediction of what training takes."""

    seconds: float
    bytes: float


def predict_cost(learner: LearnerBase, spec: DataSpec, num_rows: int, epochs: int) -> Cost:
    """Seconds on one CPU core, and peak bytes, of training `learner` on `num_rows` rows of `spec`.

    Nets are taken to train all `epochs`; early stopping makes them cheaper. Meant for ranking and for dealing out work,
    not as a promise: see `RATES` for how well it was tested.
    """
    work, num_bytes = learner.estimate_cost(spec, num_rows, epochs)
    rate = RATES.get(kind_of(type(learner)), _UNMEASURED)
    return Cost(rate.start + work * rate.per_unit, PROCESS_BYTES + num_bytes)
