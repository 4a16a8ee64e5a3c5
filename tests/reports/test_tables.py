"""Tables as plain text."""

from prernn.reports.tables import text_table


def test_columns_line_up():
    rows = [("layer", "kind", "weights"), ("a", "full", "1,024"), ("head.fc", "", "8")]
    assert text_table(rows, left=2).splitlines() == [
        "layer    kind  weights",
        "a        full    1,024",
        "head.fc              8",
    ]
