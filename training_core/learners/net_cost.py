"""What training a net costs, counted from its forward pass."""

BACKWARD_FACTOR = 3.0
"""A training step takes about three forward passes: forward, gradient by values, gradient by weights."""
BYTES_PER_PARAMETER = 24.0
"""float32 weight, gradient, two optimiser moments, the best weights kept, and one in passing."""
BATCH = 32


def training_cost(
    forward_work: float, num_parameters: float, sparse_parameters: float, row_numbers: float, num_rows: int, epochs: int
) -> tuple[float, float]:
    """(multiply-adds, peak bytes) of training for `epochs` on `num_rows` rows of `row_numbers` numbers.

    `sparse_parameters` are embeddings: hardly any work forward, but the optimiser passes over all of them in each
    step, about ten operations each, as it does over the `num_parameters` dense ones.
    """
    steps = epochs * max(num_rows / BATCH, 1.0)
    all_parameters = num_parameters + sparse_parameters
    work = BACKWARD_FACTOR * forward_work * num_rows * epochs + 10 * all_parameters * steps
    return work, BYTES_PER_PARAMETER * all_parameters + 4.0 * row_numbers * num_rows + 8.0 * forward_work
