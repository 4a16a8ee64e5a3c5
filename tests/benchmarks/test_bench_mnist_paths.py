"""`prernn bench mnist_paths`, small: networks of paths beside dense ones."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bench_tables import is_png, rows
from prernn.benchmarks import mnist_paths
from prernn.benchmarks.measuring.path_networks import convolutions, diagnosis, digits, jobs, parts
from prernn.commands.bench import bench_parser
from prernn.commands.main import main
from prernn.ops.sobol import unit_points
from prernn.sparsity.path_convolution import PathConv2d
from prernn.sparsity.path_network import PathNetwork
from prernn.sparsity.paths import drawn_paths


def arguments(module, *words):
    return bench_parser(module.__name__.rpartition(".")[2]).parse_args(words)


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
    train, labels, test, test_labels = digits.read(mnist)
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
    net = digits.build(job)
    assert net.widths == [16, 8, 10]
    for layer in net.layers:  # one weight for each connection
        assert layer.coincident == 0
        assert layer.paths <= 64
    dense = digits.build(mnist_paths.Job("x", (16, 8, 10), "dense", 0, 0, 1, 0.1))
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
    assert cells["accuracy, %"] == ["98.00", "81.00 ± 1.41"]  # of one seed there is no spread


def test_names_of_networks_say_what_they_have_beside():
    assert jobs.options_of("sobol+constant+skip=3") == ("sobol", {"init": "constant", "skip": 3})
    assert jobs.options_of("random+init=-0.5") == ("random", {"init": -0.5})
    assert jobs.options_of("dense+dropconnect=0.2") == ("dense", {"dropconnect": 0.2})
    for name, complaint in (
        ("halton", "sobol, random, dense"),
        ("sobol+dropout=0.1", "skip=N or least=N"),
        ("dense+gray", "dropconnect=SHARE"),
        ("sobol+skip=x", "'skip=x'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            jobs.options_of(name)


def test_dropout_and_dropconnect_drop_in_training_alone():
    torch.manual_seed(0)
    x = torch.rand(400, 16)
    for name in ("dropout", "dropconnect"):
        net = digits.build(mnist_paths.Job("x", (16, 8, 10), f"dense+{name}=0.4", 0, 0, 1, 0.1))
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x))
    layer = digits.DropConnect(200, 100, 0.4)
    kept = layer(torch.eye(200)) - layer.bias  # the weights of this batch
    assert abs(float((kept == 0).double().mean()) - 0.4) < 0.02


def test_steps_of_residual_layers_have_a_table_and_a_picture(mnist, tmp_path, figures):
    words = ["--widths", "16", "8", "8", "8", "10", "--epochs", "1", "--rate", "0.01", "--jobs", "1", "--paths", "40"]
    steps = ["--samplers", "sobol", "dense", "--seeds", "0", "--code-paths", "0", "--steps", "0.5", "1"]
    jobs = mnist_paths._jobs(arguments(mnist_paths, "--data", str(mnist), *words, *steps))
    assert [(job.sampler, job.step) for job in jobs] == [("sobol", 0.5), ("sobol", 1.0), ("dense", None)]
    assert [digits.build(job).step for job in jobs[:2]] == [0.5, 1]
    results = [digits.train(job) for job in jobs]
    assert results[0].line()["step"] == 0.5
    mnist_paths._draw(results, tmp_path / "a.png")
    (axis,) = figures[0].axes
    assert axis.get_xlabel() == "step size h of residual layers"
    assert axis.lines[0].get_xdata().tolist() == [0.5, 1]
    _, made = mnist_paths._table(results).renderables
    assert "step size h" in [column.header for column in made.columns]


def test_parts_of_a_dense_network_are_its_sampled_paths_and_its_largest_weights(mnist, tmp_path):
    words = ["--data", str(mnist), *SMALL, "--samplers", "sobol", "dense", "--paths", "64", "--code-paths", "0"]
    words += ["--seeds", "0", "1", "--pictures", "130", "--sampled", "0", "0.3", "1", "--out", str(tmp_path)]
    assert main(["bench", "mnist_paths", *words]) == 0
    lines = rows(tmp_path / "sampled.csv")
    assert [(line["sampled"], line["at most, %"]) for line in lines] == [
        (name, share) for share in ("0", "30", "100") for name in parts.SAMPLED
    ]
    for line in lines:
        assert float(line["used, %"]) <= float(line["at most, %"])
    whole = next(line for line in rows(tmp_path / "mnist.csv") if line["sampler"] == "dense")
    job = next(job for job in mnist_paths._jobs(arguments(mnist_paths, *words)) if job.sampler == "dense")
    part = next(part for part in digits.train(job).sampled if part[1] == 1)  # all weights
    assert part[2] == pytest.approx(float(whole["accuracy"]), abs=1e-3)
    assert is_png(tmp_path / "sampled.png")
    assert "Paths sampled backwards" in (tmp_path / "mnist.md").read_text()


def test_the_largest_weights_are_kept():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    part = parts.largest(net.requires_grad_(False), 0.5)
    sizes = torch.cat([net[0].weight.flatten(), net[2].weight.flatten()]).abs().sort(descending=True).values
    kept = torch.cat([part[0].weight.flatten(), part[2].weight.flatten()]).abs().sort(descending=True).values
    assert torch.equal(kept, torch.cat([sizes[:9], torch.zeros(9)]))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--paths", "8", "0"], "--paths"),
        (["--jobs", "0"], "--jobs"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "--rate"),
        (["--samplers", "halton"], "sobol, random, dense"),
        (["--samplers", "dense+gray"], "dropconnect=SHARE"),
        (["--sampled", "2"], "--sampled"),
        (["--pictures", "100"], "at least 128"),
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


@pytest.fixture(scope="module")
def colored(tmp_path_factory):
    """Pictures of one color each, the class."""
    folder = tmp_path_factory.mktemp("colored")
    generator, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 70), ("test", 9)):
        labels = generator.integers(0, 3, count, dtype=np.uint8)
        pictures = generator.integers(0, 60, (count, 3, 32, 32), dtype=np.uint8)
        pictures[np.arange(count), labels] += 150
        arrays |= {f"{part}_x": pictures, f"{part}_y": labels}
    np.savez(folder / "pictures.npz", **arrays)
    return folder


CONVOLUTIONS = ["--network", "convolutions", "--widths", "4", "6", "8", "--epochs", "1", "--jobs", "1"]


def test_convolutions_of_paths_and_dense_ones(colored, tmp_path, monkeypatch):
    drawn, draw = [], mnist_paths.curves.lines

    def lines_drawn(panels, path, *, along, **options):
        drawn.append((along, set(panels["test accuracy (%)"])))
        assert all(0 < share <= 100 for series in panels.values() for points in series.values() for share, *_ in points)
        return draw(panels, path, along=along, **options)

    monkeypatch.setattr(mnist_paths.curves, "lines", lines_drawn)
    words = ["--data", str(colored), *CONVOLUTIONS, "--paths", "12", "40", "--seeds", "0", "1", "--out", str(tmp_path)]
    assert main(["bench", "mnist_paths", *words, "--samplers", "sobol+mixed", "random", "dense"]) == 0
    lines = rows(tmp_path / "mnist.csv")
    assert [(line["sampler"], int(line["paths"]), int(line["seed"])) for line in lines] == [
        *(("dense", 0, seed) for seed in (0, 1)),
        *((sampler, paths, seed) for sampler in ("random", "sobol+mixed") for paths in (12, 40) for seed in (0, 1)),
    ]
    dense = 9 * (4 * 6 + 6 * 8)
    assert {int(line["weights"]) for line in lines[:2]} == {dense}
    for line in lines[2:]:
        assert int(line["weights"]) + int(line["coincident"]) == 9 * 2 * int(line["paths"])
        assert 0 < int(line["weights"]) <= dense
        assert 0 <= float(line["accuracy"]) <= 100
    assert is_png(tmp_path / "mnist.png")
    assert drawn == [("weights, % of dense", {"sobol+mixed paths", "random paths"})]
    assert "4/6/8 on CIFAR-10, 1 epochs, 2 seeds" in (tmp_path / "mnist.md").read_text()


def test_a_network_of_convolutions_has_the_paths_of_a_network_of_neurons():
    job = jobs.Job("x", (4, 6, 8), "sobol", 40, 0, 1, 0.1, taps=9)
    layers = [layer for layer in convolutions.build(job, 3) if isinstance(layer, PathConv2d)]
    neurons = [layer.indices for layer in PathNetwork([4, 6, 8], 40).merged().layers]
    assert len(layers) == 2
    for layer, indices in zip(layers, neurons, strict=True):
        assert torch.equal(layer.indices, indices)
    for name, init in (("sobol", "mixed"), ("sobol+alternating", "alternating")):
        net = convolutions.build(replace(job, sampler=name), 3)
        first = next(layer for layer in net if isinstance(layer, PathConv2d))
        drawn = drawn_paths([4, 6, 8], 40)[:, :2]
        expected = PathConv2d(4, 6, 3, 40, bias=False, init=init, drawn=drawn).merged()
        assert torch.equal(first.weight, expected.weight)
    dense = convolutions.build(jobs.Job("x", (4, 6, 8), "dense", 0, 0, 1, 0.1, taps=9), 3)
    assert dense(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--widths", "4"], "--widths of 2 to 6"),
        (["--sampled", "0.5"], "no --sampled"),
        (["--steps", "0.5"], "no --sampled, --steps"),
        (["--diagnosis"], "--diagnosis with"),
        (["--samplers", "sobol+least=4"], "or least"),
        (["--samplers", "dense+dropout=0.5"], "no dropout"),
        (["--data", "absent"], "expected a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_at_convolutions_are_one_line(wrong, complaint, colored, tmp_path, capsys):
    words = ["--data", str(colored), *CONVOLUTIONS, *wrong, "--out", str(tmp_path / "out")]
    assert main(["bench", "mnist_paths", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in line


def test_a_diagnosis_counts_what_paths_join_and_looks_into_codes(mnist, tmp_path):
    words = ["--data", str(mnist), *SMALL, "--paths", "8", "64", "--seeds", "0", "1", "--out", str(tmp_path)]
    words += ["--diagnosis", "--code-paths", "40", "--samplers", "sobol+mixed", "dense"]
    assert main(["bench", "mnist_paths", *words]) == 0
    lines = rows(tmp_path / "diagnosis.csv")
    assert [(line["paths"], line["drawn"]) for line in lines] == [
        (paths, name) for paths in ("8", "64") for name in diagnosis.DRAWN
    ]
    (sobol,) = (line for line in lines if (line["paths"], line["drawn"]) == ("8", "sobol"))
    assert sobol["outputs that an input reaches"] == "1"  # eight neurons of each layer, a path each
    assert sobol["hidden neurons with one path, %"] == "100"
    text = (tmp_path / "diagnosis.md").read_text()
    assert "the code of the autoencoder 16/6/16" in text
    assert all(f"| {name}" in text for name in ("sobol+mixed", "dense"))
    assert not (tmp_path / "mnist.csv").exists()


def test_what_is_joined_is_counted_in_the_masks():
    chains = torch.tensor([[0, 0, 0], [1, 1, 1], [2, 2, 1]])
    found = diagnosis.joined(chains, [4, 3, 2])
    assert found["outputs that an input reaches"] == 1
    assert found["hidden neurons with one path, %"] == 100
    assert found["coincident, %"] == 0
    crossing = torch.tensor([[0, 0, 0], [1, 0, 1], [1, 0, 1]])
    found = diagnosis.joined(crossing, [4, 3, 2])
    assert found["outputs that an input reaches"] == 2
    assert found["hidden neurons with one path, %"] == 0
    assert found["coincident, %"] == pytest.approx(100 / 3)
    assert found["rank of the middle layer"] == 1


@pytest.mark.parametrize("scramble", diagnosis.SCRAMBLED.values(), ids=list(diagnosis.SCRAMBLED))
def test_scrambled_points_stay_one_to_an_interval(scramble):
    points = unit_points(64, 3, first=0)
    made = scramble(points, 5)
    assert not torch.equal(made, points)
    assert not torch.equal(made, scramble(points, 6))
    for component in (made * 64).long().T:
        assert torch.equal(component.sort().values, torch.arange(64))


def test_dimensions_of_a_code():
    generator = torch.Generator().manual_seed(0)
    code = torch.zeros(4000, 6)
    assert diagnosis.dimensions(code + 3) == 0
    code[:, :2] = torch.randn(4000, 2, generator=generator)
    assert diagnosis.dimensions(code + 3) == pytest.approx(2, abs=0.05)
    code[:, 1] = code[:, 0]
    assert diagnosis.dimensions(code) == pytest.approx(1, abs=1e-3)
