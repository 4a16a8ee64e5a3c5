"""Checkpoints: what is saved is what is loaded, and a file that is something else says so in one line."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import prernn
from prernn.conversion.recipe import Recipe
from prernn.models.checkpoint import FILE_NAME, load, save
from prernn.models.from_config import NetworkSpec

TINY = "timm/test_resnet"


def equal_outputs(first, second, video):
    with torch.no_grad():
        return torch.equal(first.eval()(video)[0], second(video)[0])


@pytest.mark.parametrize(
    "recipe",
    [
        NetworkSpec(TINY, cell="lstm", hidden="band:3"),
        NetworkSpec(TINY, cell="gru", input="single", hidden="sparse:0.1"),
        NetworkSpec(TINY, method="traditional", cell="vrnn", hidden_size=7, num_layers=2),
        NetworkSpec(TINY, method="traditional", cell="vrnn", hidden_size=7, activation="relu"),
        NetworkSpec(TINY, method="traditional", cell="gru", hidden_size=7, behind="outputs"),
        NetworkSpec(TINY, method="framewise"),
        NetworkSpec(TINY, cell="gru", layers_on_top=1, hidden="paths:2"),
    ],
    ids=lambda recipe: f"{recipe.method}-{recipe.cell}-{recipe.hidden}",
)
def test_a_network_comes_back_without_a_config(recipe, tmp_path):
    net = recipe.build(5)
    net.recipe = replace(net.recipe, labels=list("abcde"), transform={"size": 32})
    save(net, tmp_path)
    again = load(tmp_path)
    assert again.recipe == Recipe.from_json(json.loads(json.dumps(net.recipe.to_json())))
    assert not again.training
    assert equal_outputs(net, again, torch.randn(2, 3, 3, 32, 32))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_loading_never_asks_a_hub(tmp_path, monkeypatch):
    save(NetworkSpec(TINY).build(3), tmp_path)
    build, asked = timm.create_model, []

    def watch(name, pretrained=False, **options):
        asked.append(pretrained)
        return build(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", watch)
    load(tmp_path / FILE_NAME)
    assert asked == [False]


def test_a_cnn_of_ones_own_needs_the_cnn(tmp_path):
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    net = prernn.convert(cnn, cell="gru", image_size=(2, 2))
    path = save(net, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"load\(path, cnn=...\)"):
        load(path)
    assert equal_outputs(net, load(path, cnn=cnn), torch.randn(2, 3, 3, 2, 2))


def test_what_is_no_checkpoint_is_one_clear_line(tmp_path):
    (tmp_path / "text.safetensors").write_text("not a checkpoint")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    for name, complaint in {
        "absent.safetensors": "found none",
        ".": "found none",
        "text.safetensors": "expected a safetensors file",
        "foreign.safetensors": "without a recipe",
        "foreign.ckpt": "without a recipe",
        "text.ckpt": "expected a Lightning checkpoint",
    }.items():
        with pytest.raises(ValueError, match=complaint) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_pickle_is_never_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": {}, "bomb": Bomb()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="expected a Lightning checkpoint"):
        load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_network_are_refused(tmp_path):
    net = NetworkSpec(TINY, cell="gru").build(3)
    net.recipe.steps[0].arguments["cell"] = "lstm"
    with pytest.raises(ValueError, match="holds another network"):
        load(save(net, tmp_path))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    net = NetworkSpec(TINY).build(3)
    before = save(net, tmp_path).read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prernn.models.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(net, tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_post_processing_rnn_keeps_the_output_layer_of_the_run_that_it_starts_from(tmp_path):
    torch.manual_seed(0)
    first = NetworkSpec(TINY, method="framewise").build(6).eval()
    save(first, tmp_path)
    start = NetworkSpec(TINY, backbone_options={"num_classes": 6}, weights=str(tmp_path))
    net = replace(start, method="traditional", cell="vrnn", hidden_size=7, behind="outputs").build(6).eval()
    seen, video = [], torch.randn(1, 3, 3, 32, 32)
    net.recurrent_layers[0].input_to_hidden.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        assert net(video)[0].shape == (1, 3, 6)
        torch.testing.assert_close(seen[0], first(video)[0][0])
    with pytest.raises(ValueError, match="does not fit the network"):
        replace(start, backbone_options={}, method="traditional", behind="outputs").build(6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"activation": "relu"}, "recipe activation: expected"), ({"behind": "outputs"}, "recipe behind: expected")],
)
def test_options_of_a_traditional_rnn_alone(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        NetworkSpec(TINY, method="framewise", **options)


def test_what_can_not_be_saved_says_what_to_do(tmp_path):
    net = NetworkSpec(TINY).build(3)
    for wrapped, part in ((nn.DataParallel(net), "module"), (torch.compile(net), "_orig_mod")):
        with pytest.raises(ValueError, match=rf"got {type(wrapped).__name__}: pass its .{part}"):
            save(wrapped, tmp_path)
    with pytest.raises(ValueError, match=r"made by prernn.convert .* got LSTM: of other modules, torch.save"):
        save(prernn.LSTM(3, 4), tmp_path)
