import numpy as np

from training_core.evaluation.predictions import Predictions


def part(num_rows, **more):
    return Predictions(np.full((num_rows, 2), 0.5), np.full(num_rows, 0.5), np.arange(num_rows), **more)


def test_parts_are_joined_in_their_order():
    whole = Predictions.joined([part(2, std=np.ones((2, 2))), part(3, std=np.zeros((3, 2)))])
    assert len(whole) == 5
    assert whole.num_learners.tolist() == [0, 1, 0, 1, 2]
    assert whole.std is not None and whole.std[:, 0].tolist() == [1, 1, 0, 0, 0]
    assert whole.sets is None and whole.lower is None


def test_what_one_part_lacks_the_whole_lacks():
    assert Predictions.joined([part(1, sets=np.ones((1, 2), bool)), part(1)]).sets is None
