"""The settings of training that every net shares."""

from training_core.config import Config
from training_core.engine.optimizers import OptimizerConfig, OptimizerKind
from training_core.quantities import NonNegativeFloat, PositiveFloat, PositiveInt, Rate


class TrainingConfig(Config):
    """How a net is trained. Estimators, which fit in one step, read none of it."""

    epochs: PositiveInt = 100
    """Passes over the training rows, at most: early stopping usually ends training before."""
    batch_size: PositiveInt = 32
    """Rows per step."""
    optimizer: OptimizerKind = "adamw"
    """Rule that turns gradients into steps."""
    lr: PositiveFloat = 1e-3
    """Learning rate."""
    weight_decay: NonNegativeFloat = 1e-4
    """Pull of weights towards zero; norms and biases are left out."""
    clip_norm: NonNegativeFloat = 1.0
    """Largest norm of all gradients together; longer ones are scaled down to it. 0: no clipping."""
    label_smoothing: Rate = 0.0
    """Share of a label's probability that is spread over all classes."""
    patience: PositiveInt = 15
    """Epochs without a better validation loss after which training stops; the best weights are kept."""
    validation_fraction: Rate = 0.2
    """Share of the training rows held back to watch for overfitting. 0: train all epochs, keep the last weights."""
    modality_dropout: Rate = 0.3
    """Probability that a net does not see a modality of a sample in a step; one modality always stays. Above 0, a net
    learns to answer with modalities absent."""

    def optimizer_config(self) -> OptimizerConfig:
        """The optimiser these settings describe."""
        return OptimizerConfig(kind=self.optimizer, lr=self.lr, weight_decay=self.weight_decay)
