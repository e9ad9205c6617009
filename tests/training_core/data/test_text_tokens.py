import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training_core.data.text import MAX_TOKENS, VOCABULARY_SIZE, count_tokens, token_ids


def texts(*values: str) -> np.ndarray:
    return np.asarray(values, object)


def test_ids_are_in_the_vocabulary_and_padded_with_zero():
    ids = token_ids(texts("A dress I love", "", "🙂!!!"), 40)
    assert ids.shape == (3, 40)
    assert ids.dtype == np.int64
    assert ids.min() == 0
    assert ids.max() < VOCABULARY_SIZE
    assert not ids[1].any()
    assert ids[2].any()


def test_words_pairs_and_triples_are_counted_once_each():
    # words: ab, cd; pair: "ab cd"; triples: <ab ab> <cd cd>
    assert (token_ids(texts("ab cd ab cd"), 40) > 0).sum() == 2 + 2 + 4  # the pairs are "ab cd" and "cd ab"
    assert (token_ids(texts("ab cd"), 40) > 0).sum() == 2 + 1 + 4


def test_words_survive_a_cut_and_case_and_width_do_not_matter():
    whole, cut = token_ids(texts("one two three"), 40), token_ids(texts("one two three"), 3)
    assert (cut == whole[:, :3]).all()
    assert (token_ids(texts("ＯＮＥ Two THREE"), 40) == whole).all()


def test_word_order_is_seen_by_the_pairs():
    first, other = (set(row) for row in token_ids(texts("not good very bad", "not bad very good"), 60))
    assert first != other
    assert len(first & other) > 4


def test_the_longest_text_sets_the_number_of_tokens():
    assert count_tokens(texts("ab", "ab cd")) == 7
    assert count_tokens(texts()) == 1
    assert count_tokens(texts("")) == 1
    assert count_tokens(texts(" ".join(f"word{i}" for i in range(1000)))) == MAX_TOKENS


def test_hashes_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "import numpy as np; from training_core.data.text import token_ids;"
        "print(token_ids(np.asarray(['schöne Schuhe'], object), 12).tolist())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={"PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(token_ids(texts("schöne Schuhe"), 12).tolist())


@pytest.mark.parametrize("text", ["\ud800 lone surrogate", "x" * 100_000, "\x00\x01", "日本語のレビュー"])
def test_odd_text_is_still_text(text):
    assert token_ids(texts(text), MAX_TOKENS).any()
