"""TF-IDF of words and word pairs, learnt from training texts and kept as plain arrays."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np

from training_core.config import Config
from training_core.learners.saved_state import read_array
from training_core.quantities import PositiveInt, SearchChoices, SearchOn, SearchRange

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

_TEXT = SearchOn(modality_kinds=("text",))


class TextFeaturesConfig(Config):
    """Which pieces of a text count."""

    analyzer: Annotated[Literal["words", "characters"], SearchChoices("words", "characters"), _TEXT] = "words"
    """Words and word pairs, or 2 to 5 characters within words: slower by five times, for languages without spaces
    and for texts full of misspellings."""
    min_documents: Annotated[PositiveInt, SearchRange(1, 5), _TEXT] = 2
    """Pieces that occur in fewer training texts are ignored."""
    max_vocabulary: Annotated[PositiveInt, SearchRange(5_000, 60_000, log=True), _TEXT] = 30_000
    """The most frequent pieces are kept; more cost time and hardly ever improve a linear model."""


class TextFeatures:
    """Texts to rows of TF-IDF weights: `(1 + ln count) · (1 + ln((1 + N) / (1 + df)))`, each row of length 1.

    Formulas: Salton & Buckley 1988, doi:10.1016/0306-4573(88)90021-0, with scikit-learn's smoothing.
    """

    def __init__(self, config: TextFeaturesConfig) -> None:
        self.config = config
        self.terms: list[str] = []
        self.idf = np.zeros(0)
        self._vectorizer: TfidfVectorizer | None = None

    @property
    def width(self) -> int:
        """Columns of the result; 0 when the training texts hold no word often enough."""
        return len(self.terms)

    def fit(self, texts: list[str]) -> Self:
        """Learn the vocabulary and its document frequencies."""
        try:
            vectorizer = self._new_vectorizer(None).fit(texts)
        except ValueError:  # no text, or no piece in `min_documents` of them: nothing to go by
            self.terms, self.idf, self._vectorizer = [], np.zeros(0), None
            return self
        self.terms = [str(term) for term in vectorizer.get_feature_names_out()]
        self.idf = np.asarray(vectorizer.idf_, dtype=np.float64)
        self._vectorizer = vectorizer
        return self

    def transform(self, texts: list[str]) -> "csr_matrix":
        """Weights [len(texts), width]; a text without a known piece is a row of zeros."""
        from scipy.sparse import csr_matrix

        if not self.terms or not texts:
            return csr_matrix((len(texts), self.width), dtype=np.float64)
        if self._vectorizer is None:
            self._vectorizer = self._new_vectorizer(self.terms)
            self._vectorizer.idf_ = self.idf
        return csr_matrix(self._vectorizer.transform(texts))

    def learnt(self) -> dict[str, Any]:
        """The vocabulary as one string, a piece per line (no piece holds a line break), and its weights."""
        return {"terms": "\n".join(self.terms), "idf": self.idf}

    def restore(self, learnt: dict[str, Any]) -> Self:
        """Take back what `learnt` gave.

        Raises:
            Exception: one of `saved_state.MALFORMED`; something is missing, repeated, or of another type or shape.
        """
        self.terms = learnt["terms"].split("\n") if learnt["terms"] else []
        if len(set(self.terms)) < len(self.terms):
            raise ValueError("a piece of text is there twice")
        self.idf, self._vectorizer = read_array(learnt, "idf", np.float64, len(self.terms)), None
        return self

    def _new_vectorizer(self, vocabulary: list[str] | None) -> "TfidfVectorizer":
        from sklearn.feature_extraction.text import TfidfVectorizer

        # One-letter words count: "I" and "5" say something.
        words: dict[str, Any] = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}
        characters: dict[str, Any] = {"analyzer": "char_wb", "ngram_range": (2, 5)}
        learning = vocabulary is None
        return TfidfVectorizer(
            **(words if self.config.analyzer == "words" else characters),
            sublinear_tf=True,
            min_df=self.config.min_documents if learning else 1,
            max_features=self.config.max_vocabulary if learning else None,
            vocabulary=vocabulary,
        )
