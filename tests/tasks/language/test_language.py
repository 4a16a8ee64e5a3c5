"""Language modeling: perplexity by hand, truncated back-propagation, streams, text that is written, the commands."""

import json
import math

import pytest
import torch
from torch import nn

import prernn
from prernn.commands.main import main
from prernn.conversion.network import RecurrentNetwork
from prernn.models.checkpoint import load
from prernn.tasks import Language
from prernn.tasks.language.generation import written
from prernn.tasks.language.watcher import WordWatcher
from prernn.training.data_module import VideoData
from prernn.training.evaluation import evaluate, onward

SENTENCES = ("the cat sat on the mat", "a dog ran to the man", "the man saw a dog", "a cat ran")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, count in (("train", 60), ("valid", 4), ("test", 5)):
        lines = [SENTENCES[number % 4] for number in range(count)]
        (folder / f"own.{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def opened(root, **options):
    data = VideoData(str(root), Language(**{"streams": 4, "steps": 6, **options}), "words", batch_size=4, num_workers=0)
    data.setup("fit")
    data.setup("test")
    return data


def network(words, **options) -> RecurrentNetwork:
    torch.manual_seed(0)
    net = prernn.traditional(prernn.backbone("words", words=words, size=6), **{"cell": "lstm", **options})
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    return net.double().eval()


@pytest.mark.parametrize("test_steps", [3, 500])
def test_perplexity_is_that_of_each_word_after_all_before(root, test_steps):
    data = opened(root, test_steps=test_steps)
    net = network(data.task.outputs)
    found = evaluate(onward(net), data.task.metrics(), data.test_dataloader())
    net.requires_grad_(False)
    words = torch.cat([torch.tensor([data.task.labels.index("<eos>")]), data.task._text("test")])
    scores = net(words[None, :-1, None])[0][0].float()
    surprise = -scores.log_softmax(-1).gather(1, words[1:, None]).double().mean()
    assert float(found["perplexity"]) == pytest.approx(math.exp(surprise), rel=1e-5)
    assert float(found["bits"]) == pytest.approx(float(surprise) / math.log(2), rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx(float((scores.argmax(-1) == words[1:]).double().mean()))


@pytest.mark.parametrize("hidden", ["full", "grouped:2", "diagonal", "band:3"])
def test_pieces_go_on_from_each_other_and_no_gradient_flows_between_them(root, hidden):
    data = opened(root, spread=2)
    net = network(data.task.outputs, hidden=hidden)
    forward = onward(net)
    data.datasets["train"].set_epoch(1)
    batches = list(data.train_dataloader())
    outs = [forward(batch) for batch in batches]
    assert len(outs) > 2
    together = torch.cat([batch["input"] for batch in batches], dim=1)
    assert torch.equal(batches[0]["way"], batches[1]["way"])
    torch.testing.assert_close(torch.cat(outs, dim=1), net(together)[0], atol=1e-10, rtol=0)
    data.task.loss(outs[1], batches[1]).backward()
    gradient = net.get_submodule("cnn.embedding").weight.grad.abs().sum(1)
    assert (gradient[batches[1]["input"].unique()] > 0).all()
    others = set(range(len(gradient))) - set(batches[1]["input"].flatten().tolist())
    assert float(gradient[list(others)].sum()) == 0


def test_a_stream_says_what_evaluation_says(root):
    data = opened(root)
    net = network(data.task.outputs)
    net.recipe = data.task.noted(net.recipe)
    batches = list(data.test_dataloader())
    forward = onward(net)
    rows = [row for batch in batches for row in data.task.predictions(forward(batch), batch)]
    watcher = WordWatcher(net)
    seen = [watcher.see(i, t, word)[0] for i, (t, word) in enumerate(data.task.frames(str(root / "own.test.txt")))]
    assert [row["word"] for row in seen] == [row["word"] for row in rows]
    assert [row["most_probable"] for row in seen] == [row["most_probable"] for row in rows]
    for one, other in zip(seen, rows, strict=True):
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)


def test_text_that_is_written(root):
    data = opened(root)
    net = network(data.task.outputs)
    net.recipe = data.task.noted(net.recipe)
    names = data.task.labels

    def some(count, **options):
        words = written(net, ["the", "cat"], **options)
        return [next(words) for _ in range(count)]

    numbers = [names.index(word) for word in ("<eos>", "the", "cat")]
    for word in some(5, temperature=0):
        scores = net(torch.tensor(numbers)[None, :, None])[0][0, -1]
        assert word == names[int(scores.argmax())]
        numbers.append(int(scores.argmax()))
    assert some(20, seed=1) == some(20, seed=1) != some(20, seed=2)
    assert some(20, temperature=1e-3) == some(20, temperature=0)
    with pytest.raises(ValueError, match=r"begin: expected words of the training text, .* found 'zebra'"):
        written(net, ["zebra"])
    with pytest.raises(ValueError, match="temperature: expected a number from 0 on, got -1"):
        written(net, temperature=-1)


def test_what_is_unknown_is_never_written(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"x.{name}.txt").write_text("a a b b c d e f g\n" * 20)
    data = opened(tmp_path, most=4)
    assert data.task.labels == ["<eos>", "<unk>", "a", "b"]
    net = network(4)
    net.recipe = data.task.noted(net.recipe)
    nn.init.zeros_(net.output_layer.weight)
    net.output_layer.bias.data = torch.tensor([0.0, 50.0, 0.0, 0.0]).double()
    words = written(net, ["c"], temperature=1)
    assert {next(words) for _ in range(30)} == {"<eos>", "a", "b"}


def config_of(folder, **learning):
    model = {
        "recipe": {"backbone": "words", "backbone_options": {"size": 16}, "method": "traditional", "cell": "lstm"},
        "learning": {"lr": 2.0, "pretrained_lr": 2.0, "momentum": 0.0, "weight_decay": 0.0, **learning},
    }
    model["recipe"]["hidden"] = "diagonal"
    task = {"class_path": "prernn.tasks.Language", "init_args": {"streams": 4, "steps": 10, "spread": 2}}
    trainer = {"gradient_clip_val": 1.0, "enable_progress_bar": False, "logger": False}
    file = folder / "config.yaml"
    file.write_text(json.dumps({"model": model, "data": {"task": task, "num_workers": 0}, "trainer": trainer}))
    return file


def test_the_commands(root, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--config", str(config_of(tmp_path)), "--data.root", str(root), "--trainer.default_root_dir", str(run)]
    assert main(["fit", *words, "--trainer.max_epochs", "20"]) == 0
    said = capsys.readouterr().out
    assert "12 different words; words and ends of line: train 360, val 24, test 31" in said
    assert "training: pieces that continue from the state of the previous one" in said
    assert main(["test", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["perplexity"] < 2.2  # the four sentences follow each other: little is to be foretold
    assert "labels" not in metrics
    assert not (run / "outputs.safetensors").exists()
    assert main(["predict", str(run)]) == 0
    lines = (run / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,word,probability,most_probable"
    assert [line.split(",")[1] for line in lines[1:]] == [*" <eos> ".join([*SENTENCES, SENTENCES[0]]).split(), "<eos>"]
    capsys.readouterr()
    out = tmp_path / "rows.json"
    assert main(["stream", str(root / "own.test.txt"), "--checkpoint", str(run), "--json", str(out)]) == 0
    assert "31 words with" in capsys.readouterr().err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for line, row in zip(lines[1:], rows, strict=True):
        assert row["probability"] == pytest.approx(float(line.split(",")[2]), rel=1e-3)
    assert main(["predict", str(run), "--text", "the cat", "--words", "5", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.startswith("the cat sat on the mat")
    assert load(run).recipe.labels[:2] == ["<eos>", "the"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.root", "{root}/none"], "expected a folder"),
        (
            ["--model.recipe.backbone", "small_vgg"],
            "a backbone that takes words, got 'small_vgg', of pictures",
        ),
        (["--model.recipe.backbone_options.words", "7"], "backbone_options words: expected 12, as in the data, got 7"),
        (
            ["--data.task.train", "*.txt"],
            "expected one text *.txt of the train words, found own.test.txt",
        ),
        (["--data.task.valid", "x.txt"], "expected one text x.txt of the val words, found none"),
        (["--data.task.streams", "50"], "expected streams of 20 words at least, got 50 of 7: fewer streams or steps"),
        (["--data.task.steps", "1"], "steps: expected a whole number of at least 2, got 1"),
    ],
)
def test_mistakes(root, tmp_path, words, message, capsys):
    given = ["fit", "--config", str(config_of(tmp_path)), "--data.root", str(root), *words]
    assert main([word.replace("{root}", str(root)) for word in given]) == 2
    assert message in capsys.readouterr().err


def test_pictures_are_no_words(tmp_path, capsys):
    task = {"class_path": "prernn.tasks.Action"}
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"model": {"recipe": {"backbone": "words"}}, "data": {"task": task}}))
    assert main(["fit", "--config", str(file), "--data.root", str(tmp_path)]) == 2
    assert "task 'action': expected a backbone that takes pictures, got 'words', of words" in capsys.readouterr().err
