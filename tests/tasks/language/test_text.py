"""Text as numbers: words, ends of line, the vocabulary, and what is no text."""

import pytest

from prernn.tasks.language.text import END, UNKNOWN, TextError, numbers, vocabulary, words_of


def file_of(folder, text, name="text.txt"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_words_stand_between_spaces_and_lines_end(tmp_path):
    path = file_of(tmp_path, "\ufeffthe  cat \n\n\tsat, naïve\r\n")
    assert list(words_of(path)) == ["the", "cat", END, "sat,", "naïve", END]


def test_the_vocabulary_is_by_frequency_and_then_by_name(tmp_path):
    path = file_of(tmp_path, "b a\nc b\nb\n")
    assert vocabulary(path) == [END, "b", "a", "c"]
    assert numbers(path, vocabulary(path)).tolist() == [1, 2, 0, 3, 1, 0, 1, 0]


def test_rare_words_are_unknown(tmp_path):
    path = file_of(tmp_path, "b a\nc b\nb\n")
    names = vocabulary(path, 3)
    assert names == [END, UNKNOWN, "b"]
    assert numbers(path, names).tolist() == [2, 1, 0, 1, 2, 0, 2, 0]
    assert vocabulary(path, 4) == [END, "b", "a", "c"]  # all have room


def test_a_word_that_is_not_known(tmp_path):
    path = file_of(tmp_path, "a dog\n")
    with pytest.raises(TextError, match=f"text.txt: expected words of the training text, .* no {UNKNOWN}, found 'dog'"):
        numbers(path, ["a", END])
    assert numbers(path, ["a", END, UNKNOWN]).tolist() == [0, 2, 1]


@pytest.mark.parametrize("text", ["", "\n \n\t\n"])
def test_a_text_without_words(tmp_path, text):
    with pytest.raises(TextError, match=r"text.txt: expected text, found no word"):
        vocabulary(file_of(tmp_path, text))
    with pytest.raises(TextError, match=r"text.txt: expected text, found no word"):
        numbers(tmp_path / "text.txt", [END])


def test_what_is_no_text(tmp_path):
    with pytest.raises(TextError, match=r"text.txt: expected text in UTF-8, found the byte 0xe9"):
        vocabulary(file_of(tmp_path, "caf\xe9 ole\n".encode("latin-1")))
    with pytest.raises(TextError, match=r"none.txt: can't be read: No such file"):
        vocabulary(tmp_path / "none.txt")
