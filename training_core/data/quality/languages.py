"""A rough, deterministic guess at the language of a text: by its script, and for Latin letters by its commonest words.

Good enough to notice that one text in ten is in another language; not to tell Danish from Norwegian.
"""

import re
from collections import Counter
from collections.abc import Sequence

UNCLEAR = "unclear"
_SCRIPTS = (
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0530, 0x058F, "Armenian"),
    (0x0590, 0x05FF, "Hebrew"),
    (0x0600, 0x077F, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x09FF, "Bengali"),
    (0x0B80, 0x0BFF, "Tamil"),
    (0x0C00, 0x0C7F, "Telugu"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x3040, 0x30FF, "Japanese"),
    (0x3400, 0x9FFF, "Han"),
    (0xAC00, 0xD7AF, "Korean"),
)
_COMMON_WORDS = {
    "English": "the and of to is in it that for was with this are not you have on but be i my so they at very as",
    "German": "der die das und ist nicht ein eine ich zu den mit sich auf für es im dem auch wie war aber sehr wir",
    "French": "le les des et est une du dans que pour pas qui sur il au je ne ce avec très nous mais vous sont",
    "Spanish": "el los las y es una del que por para con no se su lo muy como más pero este está al son hay",
    "Portuguese": "o os as e é uma do da que em para com não se por muito mas como no na dos foi ao são",
    "Italian": "il gli e è una di che per non con si della del sono molto ma come più questo anche nel lo ha",
    "Dutch": "de het een en is van niet dat op te in zijn ik met voor ook maar er aan heel wij deze bij",
    "Polish": "i w nie na się jest to że z do jak ale po bardzo o co tak dla jego tego są od być",
    "Turkish": "ve bir bu da de için çok ile ne olarak daha ama gibi var kadar sonra en her ben mi",
    "Swedish": "och att det som en på är av för med den till inte har jag ett men var om så mycket från",
}
_WORD_SETS = {language: frozenset(words.split()) for language, words in _COMMON_WORDS.items()}
_MIN_HITS = 2  # one common word may be chance: "on", "la" and "die" are words of several languages
_LEAD = 1.25  # over the second-best language, or the text is unclear: related languages share many words


def language_of(text: str) -> str:
    """The language of a text, or its script where that tells, or `UNCLEAR` (short texts, lists of names, numbers)."""
    script = main_script(text)
    if script is None:
        return UNCLEAR
    if script != "Latin":
        return script
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = sorted(((sum(word in common for word in words), name) for name, common in _WORD_SETS.items()), reverse=True)
    (best, language), (second, _) = hits[0], hits[1]
    return language if best >= _MIN_HITS and best >= _LEAD * second else UNCLEAR


def main_script(text: str) -> str | None:
    """The script most letters of a text are written in; None without a letter."""
    counts = _letters_by_script(text)
    return max(counts, key=lambda script: (counts[script], script)) if counts else None


def languages_of(texts: Sequence[str]) -> tuple[Counter[str], float]:
    """How many texts per language, and the share of all letters that are not Latin."""
    languages: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for text in texts:
        languages[language_of(text)] += 1
        letters += _letters_by_script(text)
    total = sum(letters.values())
    return languages, (total - letters["Latin"]) / total if total else 0.0


def _letters_by_script(text: str) -> Counter[str]:
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return Counter({"Latin": letters} if letters else {})
    return Counter(_script(letter) for letter in text if letter.isalpha())


def _script(letter: str) -> str:
    code = ord(letter)
    if code < 0x0250 or 0x1E00 <= code <= 0x1EFF:
        return "Latin"
    return next((script for first, last, script in _SCRIPTS if first <= code <= last), "another script")
