"""All modalities of encoded samples as the columns of one table, for estimators."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from training_core.learners.text_features import TextFeatures, TextFeaturesConfig
from training_core.schema import DataSpec, ModalitySpec, Samples

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_DENSE_ONE_HOT = 512
"""With more 0/1 columns than this a matrix is nearly all zeros, and stored as such."""
TREE_ONE_HOT = 16
"""For trees: categories beyond this many would drown the other columns in 0/1 columns hardly worth a split."""


class DesignMatrix:
    """Turns encoded samples into a matrix [N, columns] whose layout was learnt from training rows.

    Modalities follow each other in the order of the spec; arrays are flattened in C order. What is stored where a
    modality is absent never gets through: it becomes 0, or NaN with `missing_as_nan` for learners that split on it.
    Without NaN, a modality that some but not all training rows lack gets a 0/1 column saying that it is there.

    Args:
        spec: The encoded spec.
        max_one_hot: Codes of up to so many categories become 0/1 columns (code 0, unknown, is all zeros); those of
            more stay one column of codes. None: all become 0/1 columns. Not together with `text`.
        missing_as_nan: See above.
        text: How text becomes numbers; None when there is no text.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        max_one_hot: int | None = None,
        missing_as_nan: bool = False,
        text: TextFeaturesConfig | None = None,
    ) -> None:
        self.spec = spec
        self.max_one_hot = max_one_hot
        self.missing_as_nan = missing_as_nan
        self._indicated: list[str] = []
        self._texts = {m.name: TextFeatures(text) for m in spec.modalities if m.kind == "text" and text is not None}

    @property
    def is_sparse(self) -> bool:
        """Whether matrices are CSR: they are when there is text, or more 0/1 columns than are worth storing.

        Never with `max_one_hot`: those who ask for it are trees, which look at columns one by one.
        """
        if self.max_one_hot is not None:
            return False
        one_hot_columns = sum(sum(self._one_hot_widths(modality)) for modality in self.spec.modalities)
        return bool(self._texts) or one_hot_columns > MAX_DENSE_ONE_HOT

    @property
    def num_columns(self) -> int:
        """Columns of a matrix, once fitted."""
        texts = sum(features.width for features in self._texts.values())
        return max(sum(self._width(m) for m in self.spec.modalities) + texts + len(self._indicated), 1)

    def fit(self, samples: Samples) -> Self:
        """Learn which modalities need an indicator, and the vocabulary of every text."""
        masks = {modality.name: samples.available[modality.name] for modality in self.spec.modalities}
        self._indicated = [n for n, mask in masks.items() if not self.missing_as_nan and mask.any() and not mask.all()]
        for name, features in self._texts.items():
            features.fit([str(text) for text in samples.inputs[name][masks[name]]])
        return self

    def transform(self, samples: Samples) -> "np.ndarray | csr_matrix":
        """The matrix of `samples`, float64, dense or CSR; never without a column (one of zeros if need be)."""
        blocks: list[Any] = [self._block(modality, samples) for modality in self.spec.modalities]
        blocks += [samples.available[name][:, None].astype(np.float64) for name in self._indicated]
        blocks = [block for block in blocks if block.shape[1]]
        return self._join(blocks or [self._zeros(len(samples))])

    def learnt(self) -> dict[str, Any]:
        """What `fit` found, as plain values and arrays."""
        return {"indicated": list(self._indicated), "texts": {n: t.learnt() for n, t in self._texts.items()}}

    def restore(self, learnt: dict[str, Any]) -> Self:
        """Take back what `learnt` gave.

        Raises:
            Exception: one of `saved_state.MALFORMED`; something is missing, or of another type or shape.
        """
        self._indicated = list(learnt["indicated"])
        if not set(self._indicated) <= set(self.spec.names) or set(learnt["texts"]) != set(self._texts):
            raise ValueError("it was learnt from other modalities")
        for name, features in self._texts.items():
            features.restore(learnt["texts"][name])
        return self

    def _block(self, modality: ModalitySpec, samples: Samples) -> Any:
        values, available = samples.inputs[modality.name], samples.available[modality.name]
        if modality.kind == "text":
            texts = [str(text) if there else "" for text, there in zip(values, available, strict=True)]
            return self._texts[modality.name].transform(texts)
        flat = np.asarray(values, dtype=np.float64).reshape(len(samples), modality.num_features)
        flat = np.where(available[:, None], flat, np.nan if self.missing_as_nan else 0.0)
        widths = self._one_hot_widths(modality)
        if not any(widths):
            return flat
        codes = [modality.num_numeric + i for i, width in enumerate(widths) if width]
        columns = one_hot(flat[:, codes], tuple(width for width in widths if width))
        return self._join([np.delete(flat, codes, axis=1), columns if self.is_sparse else columns.toarray()])

    def _one_hot_widths(self, modality: ModalitySpec) -> list[int]:
        """0/1 columns of each column of codes, one less than its cardinality; 0 where it stays as it is."""
        most = self.max_one_hot
        return [c - 1 if most is None or c - 1 <= most else 0 for c in modality.cardinalities]

    def _width(self, modality: ModalitySpec) -> int:
        widths = self._one_hot_widths(modality)
        replaced = sum(1 for width in widths if width)
        return 0 if modality.kind == "text" else modality.num_features - replaced + sum(widths)

    def _zeros(self, num_rows: int) -> Any:
        """One column of zeros."""
        from scipy.sparse import csr_matrix

        return csr_matrix((num_rows, 1), dtype=np.float64) if self.is_sparse else np.zeros((num_rows, 1))

    def _join(self, blocks: list[Any]) -> Any:
        from scipy.sparse import csr_matrix, hstack

        return csr_matrix(hstack(blocks, format="csr")) if self.is_sparse else np.concatenate(blocks, axis=1)


def one_hot(codes: np.ndarray, widths: tuple[int, ...]) -> "csr_matrix":
    """Codes [N, columns] as 0/1 columns [N, sum(widths)], code k in column k - 1 of its block.

    Code 0, NaN and anything out of range is all zeros.
    """
    from scipy.sparse import csr_matrix

    starts = np.concatenate([[0], np.cumsum(widths)])
    rows, columns = np.nonzero((codes >= 1) & (codes <= np.asarray(widths)))
    places = starts[columns] + codes[rows, columns].astype(np.int64) - 1
    return csr_matrix((np.ones(len(rows)), (rows, places)), shape=(len(codes), int(starts[-1])))
