"""Everything that can be trained: nets and estimators, told apart by `kind`. The type is the registry."""

from typing import Annotated

from pydantic import Field

from training_core.config import Config
from training_core.learners.base import LearnerBase
from training_core.learners.estimator import Estimator
from training_core.learners.extra_trees import ExtraTreesConfig
from training_core.learners.fusion_net import FusionNetConfig
from training_core.learners.hist_boosting import HistBoostingConfig
from training_core.learners.image_cnn import ImageCNNConfig
from training_core.learners.kernel_ridge import KernelRidgeConfig
from training_core.learners.lightgbm import LightGBMConfig
from training_core.learners.linear import LinearConfig
from training_core.learners.sequence_net import SequenceNetConfig
from training_core.learners.tabular_mlp import TabularMLPConfig
from training_core.learners.tabular_resnet import TabularResNetConfig
from training_core.learners.tabular_transformer import TabularTransformerConfig
from training_core.learners.text_net import TextNetConfig
from training_core.learners.tfidf_linear import TfidfLinearConfig

__all__ = [
    "Estimator",
    "ExtraTreesConfig",
    "FusionNetConfig",
    "HistBoostingConfig",
    "ImageCNNConfig",
    "KernelRidgeConfig",
    "LearnerBase",
    "LearnerConfig",
    "LearnerSettings",
    "LightGBMConfig",
    "LinearConfig",
    "SequenceNetConfig",
    "TabularMLPConfig",
    "TabularResNetConfig",
    "TabularTransformerConfig",
    "TextNetConfig",
    "TfidfLinearConfig",
]

LearnerConfig = Annotated[
    TabularMLPConfig
    | ImageCNNConfig
    | FusionNetConfig
    | TabularTransformerConfig
    | TabularResNetConfig
    | SequenceNetConfig
    | TextNetConfig
    | LinearConfig
    | KernelRidgeConfig
    | HistBoostingConfig
    | LightGBMConfig
    | ExtraTreesConfig
    | TfidfLinearConfig,
    Field(discriminator="kind"),
]


class LearnerSettings(Config):
    """How each kind of learner is built when it is chosen; a section per kind."""

    tabular_mlp: TabularMLPConfig = TabularMLPConfig()
    image_cnn: ImageCNNConfig = ImageCNNConfig()
    fusion_net: FusionNetConfig = FusionNetConfig()
    tabular_transformer: TabularTransformerConfig = TabularTransformerConfig()
    tabular_resnet: TabularResNetConfig = TabularResNetConfig()
    sequence_net: SequenceNetConfig = SequenceNetConfig()
    text_net: TextNetConfig = TextNetConfig()
    linear: LinearConfig = LinearConfig()
    kernel_ridge: KernelRidgeConfig = KernelRidgeConfig()
    hist_boosting: HistBoostingConfig = HistBoostingConfig()
    lightgbm: LightGBMConfig = LightGBMConfig()
    extra_trees: ExtraTreesConfig = ExtraTreesConfig()
    tfidf_linear: TfidfLinearConfig = TfidfLinearConfig()
