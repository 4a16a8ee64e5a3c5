"""The benchmark of online sparsity: every network, start and share is there; never how fast."""

import csv

import numpy as np
import pytest
import torch

from prernn.benchmarks.measuring import cifar
from prernn.commands.main import main
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.sparsity.activity import activation_report

STARTS = ["1st conv", "2nd conv", "32 channels", "64 channels"]


@pytest.fixture
def data(tmp_path):
    """Random pictures and an untrained network, laid out as the real ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "pictures.npz", test_x=pictures, test_y=generator.integers(0, 10, 6, dtype=np.uint8))
    weights = {f"module.{name}": value for name, value in CifarResNet(8).state_dict().items()}
    torch.save({"state_dict": weights, "best_prec1": 10.0}, folder / "resnet8-0.th")
    return folder


def bench(data, out, *more):
    options = ["--depths", "8", "--shares", "0.2", "1", "--seeds", "2", "--repeats", "2"]
    return main(["bench", "cifar_online", "--data", str(data), *options, *more, "--out", str(out)])


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_lines_of_every_start_and_share(data, tmp_path, capsys):
    assert bench(data, tmp_path) == 0
    lines = rows(tmp_path / "cifar_online.csv")
    assert [(line["from"], float(line["share"])) for line in lines] == [(s, x) for s in STARTS for x in (0.2, 1)]
    net = cifar.network(data, 8)
    pictures, labels = cifar.read(data)
    dense = activation_report(net, pictures)
    for line in lines[1::2]:  # where nothing is sampled, all is as in the dense network
        assert float(line["accuracy, %"]) == pytest.approx(cifar.accuracy(net, pictures, labels), abs=0.005)
        assert (int(line["multiply-adds"]), int(line["left"])) == (round(dense.multiply_adds), round(dense.remaining))
        assert line["spread"] == ""
    left = [int(line["left"]) for line in lines[::2]]
    assert left == sorted(left)
    assert left[-1] < int(lines[1]["left"])  # the later sampling starts, the more is left
    for line in lines[::2]:
        assert 0 < float(line["used, %"]) <= min(20.01, float(line["non-zero before, %"]))
        assert float(line["spread"]) >= 0
    assert [line["input"] for line in rows(tmp_path / "times.csv")] == ["dense", "sampled, 0.2"]
    assert (tmp_path / "cifar_online.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "cifar_online.md").read_text()
    assert "ResNet-8" in text
    assert "6 pictures, 2 seeds, values: keep" in text
    assert "64 channels" in capsys.readouterr().out


def test_only_the_first_pictures(data, tmp_path):
    assert bench(data, tmp_path, "--pictures", "4", "--values", "estimate") == 0
    assert "4 pictures, 2 seeds, values: estimate" in (tmp_path / "cifar_online.md").read_text()
    assert {float(line["accuracy, %"]) for line in rows(tmp_path / "cifar_online.csv")[1::2]} <= {0, 25, 50, 75, 100}


@pytest.mark.parametrize(
    "wrong", [["--seeds", "0"], ["--pictures", "0"], ["--shares", "1.5"], ["--depths", "14"]], ids=str
)
def test_mistakes_are_one_line(wrong, data, tmp_path, capsys):
    assert bench(data, tmp_path, *wrong) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")
