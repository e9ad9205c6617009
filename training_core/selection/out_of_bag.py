"""What a trained learner says about rows it never saw, under every pattern of its modalities it can answer for."""

import numpy as np

from training_core.data.views import View
from training_core.engine.trained import TrainedLearner
from training_core.schema import pattern_key, patterns_to_judge
from training_core.selection.conclude import MAX_LEARNED

_BLOCK_BYTES = 128 << 20  # of raw samples that are judged at a time


def hear(learner: TrainedLearner, judged: View, modalities: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What a learner says about rows under every pattern of its modalities it can answer for, [n, C] each.

    Read in blocks, so that the rows need not fit in memory.
    """
    names = judged.spec.names
    patterns: dict[str, frozenset[str]] = {}
    for pattern in patterns_to_judge(modalities, MAX_LEARNED):
        key = pattern_key(pattern & set(names), names)
        full = len(key.split("+")) == len(names)
        if key and (full or learner.tolerates):
            patterns.setdefault(key, pattern)
    heard = {key: np.full((len(judged), learner.task.num_outputs), np.nan) for key in patterns}
    step = max(1, _BLOCK_BYTES * len(judged) // max(1, judged.num_bytes))
    for start, block in zip(range(0, len(judged), step), judged.blocks(step), strict=True):
        for key, pattern in patterns.items():
            heard[key][start : start + len(block)] = learner.predict(block.without(set(names) - pattern))
    return heard
