"""The benchmark of faces: its figures are those of points whose error, tremble and lag are known."""

import csv
import math

import numpy as np
import pytest
import torch

from footage import face
from prernn.benchmarks.measuring.faces import figures as face_figures
from prernn.benchmarks.measuring.faces.figures import Points, at_equal_lag, at_lag, figures, frontier, with_filters
from prernn.commands.main import main
from prernn.media.encoding import write_video
from prernn.models.checkpoint import save
from prernn.models.from_config import NetworkSpec
from prernn.tasks.face.landmarks import inter_ocular, write_pts

FRAMES = 90


@pytest.fixture(autouse=True)
def few_filters(monkeypatch):
    monkeypatch.setattr(face_figures, "BETAS", (0.0, 10.0))
    monkeypatch.setattr(face_figures, "CUTOFFS", (0.5, 2.0, 8.0))


def moving():
    times = torch.arange(FRAMES, dtype=torch.float64)
    shift = 20 * torch.stack([(times / 9).sin(), (times / 14).cos()], -1)
    return (face() * 40 + 100 + shift[:, None]).expand(2, -1, -1, -1)


def points(spread=0.0, late=0):
    true, chance = moving(), torch.Generator().manual_seed(0)
    guess = true.roll(late, 1) + spread * torch.randn(true.shape, generator=chance, dtype=torch.float64)
    time = (torch.arange(FRAMES, dtype=torch.float64) / 25).expand(2, -1)
    return Points(guess, true, time, torch.full((2, FRAMES), 80.0))


def test_figures_of_known_points():
    late = figures(*points(late=3)[:2])
    assert late["lag"] == pytest.approx(3, abs=0.05)
    noisy, unit = figures(*points(spread=0.5)[:2]), float(inter_ocular(moving())[0, 0])
    assert noisy["nme"] == pytest.approx(0.5 * math.sqrt(math.pi / 2) / unit, rel=0.02)
    assert noisy["tremble"] == pytest.approx(0.5 * math.sqrt(6) * math.sqrt(math.pi / 2) / unit, rel=0.1)


def test_filters_trade_tremble_for_lag():
    rows = with_filters(points(spread=0.5))
    assert rows[0]["min_cutoff"] == ""
    best = frontier(rows)
    assert len(best) > 3
    lags, values = [row["lag"] for row in best], [row["tremble"] for row in best]
    assert lags == sorted(lags)
    assert values == sorted(values, reverse=True)
    assert at_lag(rows, lags[0] - 1, "tremble") != at_lag(rows, lags[0] - 1, "tremble")  # no such network
    assert at_lag(rows, lags[2], "tremble") == values[2]
    assert at_lag(rows, 99, "tremble") == values[-1]


def test_equal_lag_is_that_of_the_recurrent_networks():
    rows = [
        {"network": name, "box": "stream", **row}
        for name, spread in (("frame-wise CNN", 0.5), ("PreGRU", 0.1))
        for row in with_filters(points(spread))
    ]
    found = at_equal_lag(rows)
    assert {row["network"] for row in found} == {"frame-wise CNN", "PreGRU"}
    by_name = {row["network"]: row for row in found if row["lag"] == found[-1]["lag"]}
    assert by_name["PreGRU"]["tremble"] < by_name["frame-wise CNN"]["tremble"]


def face_data(root):
    """Four videos of noise with a face's landmarks, half of them for training."""
    for name in "abcd":
        folder = root / name
        folder.mkdir(parents=True)
        frames = np.random.default_rng(ord(name)).integers(0, 255, (2, 120, 160, 3), dtype=np.uint8)
        write_video(folder / "vid.mp4", frames, 25)
        (folder / "vid.mp4").rename(folder / "vid.avi")
        for number in (1, 2):
            write_pts(folder / "annot" / f"{number:06d}.pts", face() * 30 + torch.tensor([80.0, 60.0]))
    for part, names in (("train", "a\nb\n"), ("test", "c\nd\n")):
        (root / f"{part}.txt").write_text(names)
    return root


@pytest.mark.slow
def test_the_tables(tmp_path, capsys):

    root = face_data(tmp_path / "faces")
    options = {"width": 16, "units": 512, "size": 64, "classes": 136}
    net = NetworkSpec("small_vgg", backbone_options=options, method="framewise").build()
    save(net, tmp_path / "start.safetensors")
    small = ["--epochs", "1", "--passes", "1", "--train-frames", "4", "--frames", "60", "--faces", "1"]
    start = ["--weights", str(tmp_path / "start.safetensors"), "--root", str(root)]
    assert main(["bench", "faces", *start, *small, "--only", "SIH", "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["box"] for row in rows} == {"fixed box", "stream"}
    assert (tmp_path / "out" / "faces.png").stat().st_size > 1000
    assert "At equal lag" in (tmp_path / "out" / "faces.md").read_text()


def test_mistakes_are_one_line(tmp_path, capsys):
    wrong = ["--root", str(tmp_path), "--weights", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "out")]
    assert main(["bench", "faces", *wrong, "--epochs", "0"]) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")
    assert main(["bench", "faces", *wrong, "--only", "nothing"]) == 2
    assert "--only" in capsys.readouterr().err
