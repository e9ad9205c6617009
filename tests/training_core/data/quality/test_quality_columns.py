import numpy as np
import pandas as pd
import pytest
from quality_world import SENTENCE, World, a_clean_world, without_nan

from training_core.data.quality.languages import UNCLEAR, language_of, languages_of
from training_core.data.quality.summary import QUANTILES, CategorySummary, NumericSummary, TextSummary
from training_core.schema import TaskSpec


def a_column(cells: object, block: int = 50) -> NumericSummary | CategorySummary:
    world = World(TaskSpec.regression(), np.zeros((len(cells), 1)), tables={"t": {"c": cells}})  # type: ignore[arg-type]
    column = world.profile(block).summary().modalities[0].columns[0]
    assert not isinstance(column, TextSummary)
    return column


def a_text(cells: list[str | None], block: int = 50) -> TextSummary:
    world = World(TaskSpec.regression(), np.zeros((len(cells), 1)), texts={"t": {"c": cells}})
    column = world.profile(block).summary().modalities[0].columns[0]
    assert isinstance(column, TextSummary)
    return column


@pytest.mark.parametrize("block", [1, 50, 10_000])
def test_a_numeric_column_has_the_statistics_of_pandas(block):
    values = pd.Series(np.random.default_rng(0).normal(3, 2, 1500)).where(lambda v: v > 0)
    column = a_column(without_nan(values), block)
    assert isinstance(column, NumericSummary)
    assert (column.count, column.missing, column.dtype) == (values.count(), values.isna().sum(), "double")
    assert (column.min, column.max, column.distinct) == (values.min(), values.max(), values.nunique())
    np.testing.assert_allclose([column.mean, column.std], [values.mean(), values.std(ddof=0)], rtol=1e-12)
    np.testing.assert_allclose(column.quantiles, values.quantile(QUANTILES), rtol=1e-12)
    assert sum(column.bins.counts) == values.count()


def test_few_values_get_a_bin_each():
    column = a_column([3, 1, 1, None, 2, 1])
    assert isinstance(column, NumericSummary)
    assert (column.bins.values, column.bins.counts, column.dtype) == ((1, 2, 3), (3, 1, 1), "int64")


def test_zeros_booleans_and_growth_are_seen():
    column = a_column([True, False, None, False])
    assert isinstance(column, NumericSummary)
    assert (column.dtype, column.zeros, column.mean, column.increasing) == ("bool", 2, 1 / 3, False)
    assert getattr(a_column(np.arange(100), 7), "increasing", None) is True
    assert getattr(a_column(np.r_[np.arange(99), 5], 7), "increasing", None) is False


def test_large_whole_numbers_that_differ_in_the_last_digit_are_different_rows():
    world = World(TaskSpec.regression(), np.zeros((2, 1)), tables={"t": {"c": [2**53, 2**53 + 1]}})
    assert len(set(world.profile().hashes("t").tolist())) == 2


def test_a_column_of_categories_has_their_counts():
    cells = ["b", "a", None, "b", "c", "b"]
    column = a_column(cells, 2)
    assert isinstance(column, CategorySummary)
    assert column.top == (("b", 3), ("a", 1), ("c", 1))
    assert (column.count, column.missing, column.distinct, column.complete) == (5, 1, 3, True)


def test_more_categories_than_are_kept_are_said_to_be_more():
    column = a_column([str(i) for i in range(3000)])
    assert isinstance(column, CategorySummary)
    assert (column.distinct, len(column.top), column.complete) == (3000, 1000, False)


def test_texts_are_measured_in_characters_and_words():
    texts = ["one two", None, "  ", "drei vier fünf ", "x"]
    column = a_text(texts, 2)
    assert (column.count, column.missing, column.blank, column.distinct) == (4, 1, 1, 4)
    assert (column.words[0], column.words[-1]) == (0, 3)
    assert (column.characters[0], column.characters[-1]) == (1, 15)
    assert column.mean_words == pytest.approx(6 / 4)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The dress is nice and it fits very well, but not for me", "English"),
        ("Das Kleid ist sehr schön und passt mir gut, aber nicht für den Winter", "German"),
        ("La robe est très belle et elle me va bien, mais pas pour les fêtes", "French"),
        ("El vestido es muy bonito y me queda bien, pero no para los días de frío", "Spanish"),
        ("O vestido é muito bonito e serve bem, mas não para os dias de frio", "Portuguese"),
        ("Il vestito è molto bello e mi sta bene, ma non per gli inverni", "Italian"),
        ("De jurk is heel mooi en het zit goed, maar niet voor de winter", "Dutch"),
        ("Платье очень красивое", "Cyrillic"),
        ("这件衣服很漂亮", "Han"),
        ("とてもきれいなドレスです", "Japanese"),
        ("الفستان جميل جدا", "Arabic"),
        ("XL blue 12.99", UNCLEAR),
        ("12 345", UNCLEAR),
        ("", UNCLEAR),
    ],
)
def test_a_language_is_told_by_its_script_or_its_commonest_words(text, language):
    assert language_of(text) == language


def test_the_share_of_letters_that_are_not_latin_is_measured():
    counts, share = languages_of(["abcd", "абвг"])
    assert share == 0.5
    assert counts["Cyrillic"] == 1


def test_the_languages_of_a_column_come_from_the_same_texts_however_they_are_cut():
    texts = [" ".join(np.random.default_rng(i).permutation(SENTENCE.split())) for i in range(3000)]
    one, other = a_text(texts, 3000), a_text(texts, 101)
    assert one.languages == other.languages == (("English", 2000),)


def test_clean_columns_keep_what_is_needed_to_compare_versions():
    summary = a_clean_world().profile().summary()
    facts = next(m for m in summary.modalities if m.name == "facts")
    assert [column.name for column in facts.columns] == ["size", "weight", "age", "price", "shop"]
    assert all(isinstance(c, CategorySummary) or len(c.bins.counts) > 5 for c in facts.columns)
