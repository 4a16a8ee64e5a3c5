"""The benchmark of streams: every network is there, with its counts; never how fast."""

import csv

import pytest

from prernn.commands.main import main

SMALL = ["--size", "32", "--window", "4", "--repeats", "2", "--threads", "1"]


def test_networks_and_their_counts(tmp_path, capsys):
    options = [*SMALL, "--hidden", "full", "diagonal", "--clips", "mc3_18", "--out", str(tmp_path)]
    assert main(["bench", "rcn", *options]) == 0
    with (tmp_path / "rcn.csv").open(newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    names = ["frame by frame", "as RCN, full", "as RCN, diagonal", "inflated"]
    assert [name.removeprefix("resnet18").strip(", ") for name in rows] == [*names, "mc3_18"]
    cnn, full, diagonal, inflated, _ = (int(row["multiply-adds"]) for row in rows.values())
    assert cnn < diagonal < full < inflated
    assert int(rows["resnet18 as RCN, full"]["of W_hh"]) == 1_396_736
    assert float(rows["resnet18, frame by frame"]["state, MB"]) == 0
    assert float(rows["mc3_18"]["state, MB"]) == pytest.approx(4 * 3 * 4 * 32 * 32 / 1e6, abs=0.005)
    assert all(int(row["calls"]) == 2 for row in rows.values())
    assert float(rows["resnet18, inflated"]["times as fast"]) == 1  # without r3d_18 it is what others are held against
    assert (tmp_path / "rcn.png").read_bytes().startswith(b"\x89PNG")
    assert "as RCN, diagonal" in (tmp_path / "rcn.md").read_text()
    assert "as RCN, diagonal" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--window", "0"], ["--backbone", "absent"], ["--hidden", "band:4"]], ids=str)
def test_mistakes_are_one_line(wrong, tmp_path, capsys):
    assert main(["bench", "rcn", *SMALL, *wrong, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")
