"""`prernn bench cifar_quantize`, small: pictures, networks, the sampling of their weights."""

import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import prernn
from bench_tables import is_png, rows
from prernn.benchmarks import cifar_quantize
from prernn.benchmarks.measuring import cifar
from prernn.commands.main import main
from prernn.models.backbones import IMAGENET
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.sparsity.normalize import normalized
from prernn.sparsity.quantization.quantize import TALK, quantization_report, quantize

SEEN = (cifar_quantize.SEEN, cifar_quantize.NOISE)
LABELS = [3, 1, 4, 2, 5, 9]


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """Random pictures and an untrained network that tells them apart, laid out as the real ones."""
    folder = tmp_path_factory.mktemp("cifar")
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "pictures.npz", test_x=pictures, test_y=np.array(LABELS, dtype=np.uint8))
    torch.manual_seed(0)
    net = CifarResNet(8)
    x, labels = cifar.read(folder)
    with torch.no_grad():
        for _ in range(60):
            net(x)  # its batch statistics become those of the pictures
        net.eval()
        features = []
        net.linear.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        net(x)
        centered = features[0] - features[0].mean(0)  # (6, 64)
        net.linear.weight.copy_((torch.linalg.pinv(centered) @ torch.eye(10)[labels]).T)
        net.linear.bias.copy_(-net.linear.weight @ features[0].mean(0))
    weights = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights, "best_prec1": 10.0}, folder / "resnet8-0.th")
    return folder


def test_pictures_are_scaled_as_for_imagenet(cifar10):
    pictures, labels = cifar.read(cifar10)
    with np.load(cifar10 / "pictures.npz") as arrays:
        raw = arrays["test_x"]
    assert labels.tolist() == LABELS
    assert labels.dtype == torch.int64
    assert pictures.dtype == torch.float32
    for channel in range(3):
        expected = (raw[:, channel] / 255 - IMAGENET["mean"][channel]) / IMAGENET["std"][channel]
        np.testing.assert_allclose(pictures[:, channel], expected, atol=1e-6)


@torch.no_grad()
def test_the_network_is_the_files(cifar10):
    net, own = cifar.network(cifar10, 8), CifarResNet(8)
    weights = torch.load(cifar10 / "resnet8-0.th", weights_only=True)["state_dict"]
    own.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    assert not net.training
    pictures, _ = cifar.read(cifar10)
    torch.testing.assert_close(net(pictures), own.eval()(pictures), rtol=1e-4, atol=1e-4)


def test_accuracy_counts_right_ones_over_all_batches(monkeypatch):
    monkeypatch.setattr(cifar, "BATCH", 3)
    scores = torch.eye(4)[[0, 1, 2, 3, 0, 1, 2]]
    labels = torch.tensor([0, 1, 2, 3, 0, 0, 0])
    sizes = []
    net = nn.Identity()
    net.register_forward_hook(lambda _, inputs, out: sizes.append(len(out)))
    assert cifar.accuracy(net, scores, labels) == pytest.approx(500 / 7)
    assert sizes == [3, 3, 1]


def wrong_arrays(folder, **arrays):
    np.savez(folder / "x.npz", **arrays)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: None, "expected a file"),
        (lambda folder: wrong_arrays(folder, test_x=np.zeros(3)), "test_y"),
        (lambda folder: (folder / "x.npz").write_bytes(b"no archive"), "x.npz"),
        (lambda folder: (folder / "x.npz").write_bytes(b""), "x.npz"),
        (lambda folder: (folder / "x.npz").write_bytes(b"PK\x03\x04 cut"), "x.npz"),
        (lambda folder: wrong_arrays(folder, test_x=np.zeros((2, 32, 32, 3)), test_y=np.zeros(2)), "(2, 32, 32, 3)"),
        (lambda folder: wrong_arrays(folder, test_x=np.zeros((2, 3, 32, 32)), test_y=np.zeros(3)), "(3,)"),
        (lambda folder: wrong_arrays(folder, test_x=np.zeros((0, 3, 32, 32)), test_y=np.zeros(0)), "(0,)"),
    ],
    ids=["none", "array", "text", "empty", "cut", "channels", "count", "nothing"],
)
def test_pictures_that_are_none(tmp_path, make, complaint):
    make(tmp_path)
    with pytest.raises(ValueError, match="expected") as error:
        cifar.read(tmp_path)
    assert complaint in str(error.value)


def test_networks_that_are_none(cifar10, tmp_path):
    with pytest.raises(ValueError, match=r"resnet20\*"):
        cifar.network(cifar10, 20)
    with pytest.raises(ValueError, match="6n"):
        cifar.network(cifar10, 9)
    torch.save(CifarResNet(14).state_dict(), tmp_path / "resnet8.th")
    with pytest.raises(ValueError, match="does not fit"):
        cifar.network(tmp_path, 8)


@pytest.mark.slow
def test_quantized_residual_networks(cifar10, tmp_path, capsys):
    amounts = ["--samples", "1.5", "--sweep", "0.5", "4", "--bits", "2", "16", "--draws", "2", "--sweep-draws", "1"]
    words = [
        "--data",
        str(cifar10),
        "--depths",
        "8",
        *amounts,
        "--threads",
        "1",
        "--inputs",
        "4",
        "--files",
        "--out",
        str(tmp_path),
    ]
    assert main(["bench", "cifar_quantize", *words]) == 0
    lines = rows(tmp_path / "quantize.csv")
    found = [(line["kind"], line["depth"], line["method"], float(line["samples"]), line["draws"]) for line in lines]
    others = [name for name in cifar_quantize.PARTS if name not in (cifar_quantize.MAIN, "corrected")]
    parts = [("part", "8", name, 1.5, "2") for name in others]
    samplers = ("systematic", cifar_quantize.CORRECTED, "jittered", "sobol", "random")
    assert found == [
        ("table", "8", "systematic, by sign, allocated", 1.5, "2"),
        ("table", "8", "corrected", 1.5, "2"),
        *parts,
        *(("curve", "8", sampler, samples, "1") for sampler in samplers for samples in (0.5, 4)),
        *(("rounding", "8", "to nearest, per channel", bits, "1") for bits in (2, 16)),
        *(("rounding", "8", f"ternary, per channel{end}", 1.58, "1") for end in ("", ", corrected")),
        *(("inputs", "8", name, 0.5, "1") for name in (cifar_quantize.NOT, cifar_quantize.MADE, *SEEN)),
    ]
    assert len(parts) == 12
    of = {(line["kind"], line["method"], float(line["samples"])): line for line in lines}
    pictures, labels = cifar.read(cifar10)
    net = cifar.network(cifar10, 8)
    full = cifar.accuracy(net, pictures, labels)
    assert full > 50
    assert len({line["lost"] for line in lines}) > 3

    def measured(net, samples, draws, **options):
        copies = [quantize(net, samples, seed=seed, **options) for seed in range(draws)]
        lost = [full - cifar.accuracy(quantized, pictures, labels) for quantized in copies]
        reports = [quantization_report(quantized) for quantized in copies]
        bits = statistics.fmean(report.bits for report in reports)
        return statistics.fmean(lost), bits, 100 * statistics.fmean(report.nonzero for report in reports)

    inputs = prernn.synthetic_inputs(net, (3, 32, 32), count=4)
    for key, expected in [
        (("table", "systematic, by sign, allocated", 1.5), measured(net, 1.5, 2)),
        (("table", "corrected", 1.5), measured(net, 1.5, 2, correct=True, inputs=inputs)),
        (("part", "jittered", 1.5), measured(net, 1.5, 2, sampler="jittered", order="natural", allocation=0.0)),
        (("part", "normalized, a scale for each neuron", 1.5), measured(normalized(net), 1.5, 2, scale="neuron")),
        (("part", "the talk: random, by neuron, as they lie", 1.5), measured(net, 1.5, 2, **TALK)),
        (("curve", "systematic", 0.5), measured(net, 0.5, 1)),
        (("curve", "random", 4.0), measured(net, 4, 1, sampler="random")),
    ]:
        assert [float(of[key][name]) for name in ("lost", "bits", "nonzero")] == pytest.approx(expected), key
    two, sixteen = (of["rounding", "to nearest, per channel", bits] for bits in (2.0, 16.0))
    assert float(sixteen["lost"]) == 0  # 16 bits are enough
    assert float(sixteen["bits"]) == 16
    assert float(two["nonzero"]) < 50 < 99 < float(sixteen["nonzero"])
    assert all(float(line["coded"]) <= float(line["bits"]) + 0.3 for line in lines)
    assert is_png(tmp_path / "quantize.png")
    assert is_png(tmp_path / "bits.png")
    text = (tmp_path / "quantize.md").read_text()
    assert "6 test pictures: one is 16.67 points" in text
    assert "1.5 systematic samples a weight, 2 draws" in text
    assert "ResNet-8, what the parts contribute" in text
    assert "| to nearest, per channel " in text
    assert "files, one picture on one thread" in text
    assert "1.5 samples, corrected" in text
    assert "written to" in capsys.readouterr().out


def test_rounding_to_nearest_by_hand():
    net = nn.Linear(3, 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -0.4, 0.1], [0.0, 0.0, 0.0]]))
    before = net.weight.clone()
    rounded, (integers,) = cifar_quantize.rounded_network(net, cifar_quantize.nearest(3))  # -3 .. 3 thirds
    torch.testing.assert_close(rounded.weight, torch.tensor([[1, -1 / 3, 0], [0, 0, 0]], dtype=torch.float64))
    assert integers.tolist() == [[3, -1, 0], [0, 0, 0]]
    torch.testing.assert_close(net.weight, before, rtol=0, atol=0)
    # a scale for each channel: multiples of it change nothing
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, -1.0, 2.0], [30.0, 10.0, 20.0]]))
    same, _ = cifar_quantize.rounded_network(net, cifar_quantize.nearest(3))
    torch.testing.assert_close(same.weight, net.weight)


def test_ternary_weights_by_hand():
    rows = torch.tensor([[1.0, -2.0, 0.1, 0.5], [0.0, 0.0, 0.0, 0.0]])  # the mean is 0.9, the limit 0.63
    integers, scale = cifar_quantize.ternary(rows)
    assert integers.tolist() == [[1, -1, 0, 0], [0, 0, 0, 0]]
    assert scale.tolist() == [[1.5], [0]]


def made_up(kind, method, samples, lost, depth=8, bits=3.0):
    line = {"kind": kind, "depth": depth, "method": method, "samples": samples, "draws": 2}
    return {**line, "lost": lost, "spread": 0.25, "bits": 9.0, "coded": bits, "nonzero": 60.0}


def test_curves_of_all_samplers_and_networks(tmp_path, figures):
    lines = [
        made_up("table", "systematic, by sign, allocated", 1, 0.5),
        *(made_up("curve", "systematic", s, lost, bits=b) for s, lost, b in ((0.5, 40.0, 2.0), (2, 1.0, 4.0))),
        made_up("curve", "random", 2, 30.0),
        made_up("rounding", "to nearest, per channel", 4, 3.0, bits=4),
        made_up("curve", "systematic", 2, 2.0, depth=14),
    ]
    cifar_quantize._draw(lines, tmp_path)
    first, second = figures
    axes = {axis.get_ylabel(): axis for axis in first.axes}
    assert list(axes) == ["points lost", "points lost, below 5", "bits a weight in a file", "non-zero weights (%)"]
    shown = {line.get_label(): line.get_xydata().tolist() for line in axes["points lost"].lines}
    assert shown == {"systematic": [[0.5, 40], [2, 1]], "random": [[2, 30]]}
    near = {line.get_label(): line.get_xydata().tolist() for line in axes["points lost, below 5"].lines}
    assert near == {"systematic": [[2, 1]]}
    assert [axis.get_ylabel() for axis in second.axes] == [f"ResNet-{n}: points lost, below 5" for n in (8, 14)]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in second.axes[0].lines}
    assert drawn == {"systematic samples": [[4, 1]], "rounded to nearest, per channel": [[4, 3]]}


def test_a_panel_that_would_show_the_same_again_is_left_out(tmp_path, figures):
    cifar_quantize._draw([made_up("curve", "systematic", s, 1.0) for s in (1, 2)], tmp_path)
    assert [axis.get_ylabel() for axis in figures[0].axes] == [
        "points lost",
        "bits a weight in a file",
        "non-zero weights (%)",
    ]


def test_the_talks_figures_stand_beside_ours():
    options = SimpleNamespace(samples=1.15, draws=2)
    lines = [made_up("table", "systematic, by sign, allocated", 1.15, 0.5, depth=depth) for depth in (20, 8)]
    _, made = cifar_quantize._talk_table(lines, {20: 91.0, 8: 80.0}, options).renderables
    cells = {column.header: list(column.cells) for column in made.columns}
    assert cells["network"] == ["ResNet-20", "ResNet-8"]
    assert cells["accuracy, %"] == ["91.00", "80.00"]
    assert cells["lost"] == ["0.50 ± 0.25"] * 2
    assert cells["talk: lost"] == ["0.67, 5.00 bits, 67.5 %", ""]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--draws", "0"],
        ["--sweep-draws", "0"],
        ["--samples", "-1"],
        ["--sweep", "1", "-1"],
        ["--bits", "1"],
        ["--samplers", "halton"],
        ["--depths", "20"],
        ["--data", "absent"],
    ],
    ids=" ".join,
)
def test_mistakes_at_cifar_are_one_line(wrong, cifar10, tmp_path, capsys):
    words = ["--data", str(cifar10), "--depths", "8", *wrong, "--out", str(tmp_path / "out")]
    assert main(["bench", "cifar_quantize", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: expected") or ": expected" in line
    assert not (tmp_path / "out").exists()
