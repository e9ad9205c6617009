"""What a run left behind that diagnoses are made from: plain values, whoever gathered them."""

from training_core.config import Config
from training_core.evaluation.analytics import LearnerTraining
from training_core.evaluation.importance import Association, Importance


class ModalityEvidence(Config):
    """What one modality tells of the answer."""

    name: str
    association: Association | None
    """How well the best learner on this modality alone ranks rows; None when none was trained on it alone."""
    importances: tuple[Importance, ...] = ()
    """What shuffling it costs learners that have others besides, the better learners first."""


class CrossModalEvidence(Config):
    """How a learner of several modalities does on some of them beside one that has only a single one, same rows."""

    learner: str
    shown: tuple[str, ...]
    """The modalities it is let see."""
    rival: str
    """The learner on a single one of them."""
    shortfall: float
    """Mean over rows by which the rival does better; a right answer counts 1, a value its share of variance."""
    std_error: float
    """Of that mean."""
    num_rows: int


class GeneralisationEvidence(Config):
    """One learner's score on rows outside its bag and on the test split."""

    learner: str
    out_of_bag: float
    out_of_bag_rows: int
    test: float
    test_rows: int


class RunLimits(Config):
    """What a run was allowed to take; None: as much as it likes."""

    seconds: float | None = None
    memory_bytes: float | None = None
    """Of one learner's process."""


class RunEvidence(Config):
    """Everything that is known of a run when it is diagnosed."""

    trainings: tuple[LearnerTraining, ...]
    modalities: tuple[ModalityEvidence, ...] = ()
    cross_modal: tuple[CrossModalEvidence, ...] = ()
    generalisation: tuple[GeneralisationEvidence, ...] = ()
    """Of classifiers: how sure other scores are does not follow from their value."""
    limits: RunLimits = RunLimits()
    seconds: float | None = None
    """What the run took from beginning to end."""
