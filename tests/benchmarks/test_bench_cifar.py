"""The benchmark of online sparsity: every network, start and share is there; never how fast."""

import csv

import numpy as np
import pytest
import torch

import prernn
from prernn.benchmarks import cifar_online
from prernn.benchmarks.measuring import cifar, sampled_layers, vgg
from prernn.benchmarks.measuring.path_networks import parts
from prernn.commands.main import main
from prernn.conversion.lighter.skipping import SkippingConv2d
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.sparsity.activity import activation_report

KEPT = "sampled, 0.2, zeros multiplied"
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
    assert [line["input"] for line in rows(tmp_path / "times.csv")] == ["dense", "sampled, 0.2", KEPT]
    assert (tmp_path / "cifar_online.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "cifar_online.md").read_text()
    assert "ResNet-8" in text
    assert "6 pictures, 2 seeds, values: keep, per activation" in text
    assert "64 channels" in capsys.readouterr().out


def test_only_the_first_pictures(data, tmp_path):
    assert bench(data, tmp_path, "--pictures", "4", "--values", "estimate", "--per", "channel") == 0
    assert "4 pictures, 2 seeds, values: estimate, per channel" in (tmp_path / "cifar_online.md").read_text()
    assert {float(line["accuracy, %"]) for line in rows(tmp_path / "cifar_online.csv")[1::2]} <= {0, 25, 50, 75, 100}


@pytest.mark.parametrize(
    "wrong",
    [
        ["--linear", "2"],
        ["--own-time", "--threads", "2"],
        ["--seeds", "0"],
        ["--pictures", "0"],
        ["--shares", "1.5"],
        ["--depths", "14"],
    ],
    ids=str,
)
def test_mistakes_are_one_line(wrong, data, tmp_path, capsys):
    assert bench(data, tmp_path, *wrong) == 2
    assert capsys.readouterr().err.startswith("prernn: error: ")


@pytest.fixture
def digits(tmp_path):
    """Random digits, laid out as the real ones."""
    generator = np.random.default_rng(0)
    arrays = {f"{part}_x": generator.integers(0, 256, (5, 28, 28), dtype=np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_y": np.array([0, 1, 2, 1, 3], dtype=np.uint8) for part in ("train", "test")}
    (tmp_path / "digits").mkdir()
    np.savez(tmp_path / "digits" / "digits.npz", **arrays)
    return tmp_path / "digits"


def test_a_vgg_is_trained_once_and_sampled(digits, tmp_path, capsys):
    options = ["--network", "vgg16", "--data", str(digits), "--width", "8", "--epochs", "1", "--shares", "0.2", "1"]
    options += ["--seeds", "1", "--repeats", "1", "--values", "count", "--out", str(tmp_path)]
    assert main(["bench", "cifar_online", *options]) == 0
    assert "epoch 1 of 1" in capsys.readouterr().out
    kept = (tmp_path / "vgg16.pt").read_bytes()
    lines = rows(tmp_path / "cifar_online.csv")
    assert [line["from"] for line in lines[::2]] == list(cifar_online.VGG_STARTS)
    net = vgg.trained(vgg.read(digits), tmp_path / "vgg16.pt", 8, 1, 0.1, 0)
    sampled = prernn.online_sparsity(net, 0.2, 0.05, values="count", start="features.3")
    found = activation_report(sampled, vgg.read(digits).test[0])
    assert lines[2]["used, %"] == f"{100 * found.used:.2f}"
    assert main(["bench", "cifar_online", *options]) == 0
    assert "epoch" not in capsys.readouterr().out
    assert (tmp_path / "vgg16.pt").read_bytes() == kept
    assert main(["bench", "cifar_online", *options, "--width", "16"]) == 2
    assert "expected weights of a VGG of width 16" in capsys.readouterr().err


def test_a_part_of_a_vggs_dense_layers_is_kept(digits, tmp_path, capsys):
    options = ["--network", "vgg16", "--data", str(digits), "--width", "8", "--epochs", "1", "--out", str(tmp_path)]
    assert main(["bench", "cifar_online", *options, "--sampled", "0.1", "1", "--seeds", "2"]) == 0
    lines = rows(tmp_path / "sampled.csv")
    assert [(line["sampled"], line["at most, %"]) for line in lines] == [
        (name, share) for share in ("10", "100") for name in parts.SAMPLED
    ]
    for line in lines[:4]:
        assert 0 < float(line["used, %"]) <= 10
    data = vgg.read(digits)
    whole = cifar.accuracy(vgg.trained(data, tmp_path / "vgg16.pt", 8, 1, 0.1, 0), *data.test)
    kept = [line for line in lines[4:] if line["sampled"] != "systematic, counts"]
    assert [line["accuracy, %"] for line in kept] == [f"{whole:.2f} ± 0.00"] * 3
    assert (tmp_path / "sampled.png").read_bytes().startswith(b"\x89PNG")
    assert f"all weights: {whole:.2f} %" in (tmp_path / "sampled.md").read_text()
    assert main(["bench", "cifar_online", *options, "--network", "resnet", "--sampled", "0.1"]) == 2
    assert "--network vgg16" in capsys.readouterr().err


def test_pictures_of_a_vgg(digits, tmp_path):
    pictures = vgg.read(digits)
    assert pictures.train[0].shape == pictures.test[0].shape == (5, 3, 32, 32)
    assert not pictures.mirrored
    same = vgg.varied(torch.ones(7, 3, 32, 32), mirrored=True)
    assert torch.equal(same, torch.ones(7, 3, 32, 32))
    for wrong in ({"train_x": np.zeros((2, 3, 9, 9), np.uint8)}, {}):
        np.savez(digits / "digits.npz", **wrong)
        with pytest.raises(ValueError, match="expected"):
            vgg.read(digits)
    with pytest.raises(ValueError, match="found none"):
        vgg.read(tmp_path)


def test_layers_by_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(sampled_layers, "SIZES", (8,))
    monkeypatch.setattr(sampled_layers, "MAPS", ((4, 6),))
    out = ["--repeats", "1", "--own-time", "--out", str(tmp_path)]
    assert main(["bench", "cifar_online", "--layers", "--shares", "0.1", "0.5", *out]) == 0
    lines = rows(tmp_path / "layers.csv")
    assert [line["layer"].partition(",")[0] for line in lines] == ["fully connected"] * 3 + ["3x3", "1x1"]
    assert all(line["0.1"] and line["0.5"] for line in lines)
    assert main(["bench", "cifar_online", *out]) == 2


def test_a_layer_that_is_timed_is_sampled_and_takes_the_kernel():
    conv, x = torch.nn.Conv2d(8, 8, 3, padding=1), torch.rand(1, 8, 40, 40)
    made = sampled_layers.sampled_always(conv, 0.9)
    assert type(made) is SkippingConv2d
    assert made._pays(x)
    with torch.no_grad():
        expected = conv(made._forward_pre_hooks[next(iter(made._forward_pre_hooks))](conv, (x,))[0])
        torch.testing.assert_close(made(x), expected, rtol=1e-5, atol=1e-5)
        assert (made(x) - conv(x)).abs().max() > 1e-3
