"""The page is well-formed, escapes what it is given, and holds its pictures."""

import base64
import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from prernn.reports.page import page, picture, table

AWKWARD = """<b>&amp;"run" 'one'</b>"""


def parsed(text):
    """The page as a tree: its tags are all closed."""
    head, _, rest = text.partition("\n")
    assert head == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


@given(st.text(st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="\ufffe\uffff"), max_size=20))
def test_text_is_escaped(text):
    tree = parsed(page(text, [table([{text: text}], link="a.csv")], [text]))
    assert tree.find("head/title").text == (text or None)
    assert [cell.text or "" for cell in [*tree.iter("th"), *tree.iter("td"), *tree.iter("li")]] == [text] * 3


def test_pictures_are_in_the_page_itself(tmp_path):
    path = tmp_path / "a&b.png"
    path.write_bytes(b"\x89PNG and so on")
    tree = parsed(page(AWKWARD, [picture(path, AWKWARD, AWKWARD, ["c.csv"])]))
    (image,) = tree.iter("img")
    kind, _, data = image.get("src").partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == path.read_bytes()
    assert image.get("alt") == AWKWARD
    assert [link.get("href") for link in tree.iter("a")] == ["a&b.png", "c.csv"]
    assert list(tree.iter("ul")) == []  # no notes, no list


def test_numbers_are_set_apart():
    tree = parsed(page("", [table([{"a": 1234567, "b": "0.5", "c": "-1e-07", "d": "PreGRU", "e": ""}])]))
    cells = list(tree.iter("td"))
    assert [cell.get("class") for cell in cells] == ["number", "number", "number", None, None]
    assert cells[0].text == "1,234,567"


def test_an_empty_table_is_nothing():
    assert table([]) == ""
