"""`prernn bench mnist_paths`, small: networks of paths beside dense ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bench_tables import is_png, rows
from prernn.benchmarks import mnist_paths
from prernn.commands.bench import bench_parser
from prernn.commands.main import main


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
    assert cells["accuracy, %"] == ["98.00", "81.00 ± 1.41"]  # of one seed there is no spread


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
