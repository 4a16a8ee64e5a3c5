"""RCN under PreRNN, in files, streams and exports, and with activation checkpointing."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import get_model

import prernn
from equations import close
from prernn.conversion.graph.trunk import split
from prernn.conversion.modes import freeze_statistics
from prernn.layers.cells import LinearCell
from prernn.models.from_config import NetworkSpec
from prernn.streaming.stream import Stream
from rcn_networks import (
    SMALL,
    STRUCTURES,
    converted,
    draw_state,
    drawn,
    in_chunks,
    in_steps,
    parameters_of,
    still,
    trained,
    units,
    video_of,
)
from small_cnns import SIZE, film

# --- PreRNN on top


@pytest.mark.parametrize(
    ("name", "layer", "below"),
    [("resnet18", "layer4.1.conv2", 16), ("resnet50", "layer4.2.conv3", 17), ("vgg11", "classifier.3", 8)],
)
def test_prernn_takes_the_layer_that_it_takes_without_rcn(name, layer, below):
    with torch.device("meta"):
        cnn = get_model(name)
    plain = prernn.convert(cnn)
    rcn = prernn.convert_rcn(cnn)
    net = prernn.convert(rcn)
    assert plain.recipe.steps[-1].arguments["layer"] == net.recipe.steps[-1].arguments["layer"] == [layer]
    assert len(units(net)) == below
    assert len(net.recurrent_layers) == below + 1
    assert len(units(rcn)) == below + (name == "resnet18")
    assert layer not in units(net)


ON_TOP = {
    "convert": lambda rcn, **options: prernn.convert(rcn, **options),
    "convert-single": lambda rcn, **options: prernn.convert(rcn, input="single", **options),
    "traditional": lambda rcn, **options: prernn.traditional(rcn, hidden_size=7, **options),
}


@pytest.mark.parametrize("kind", ["fc", "residual", "dense", "plain", "wide", "snippets"])
@pytest.mark.parametrize("top", list(ON_TOP))
@pytest.mark.parametrize("cell", ["vrnn", "lstm", "gru"])
def test_steps_equal_the_sequence_with_another_recurrence_on_top(cell, top, kind):
    rcn = trained(kind)
    before = copy.deepcopy(rcn.state_dict())
    net = ON_TOP[top](rcn, cell=cell, outputs=4)
    nn.init.normal_(net.recurrent_layers[-1].bias)
    video = video_of(kind, steps=3)
    with torch.no_grad():
        expected = net(video)
        assert expected[0].shape == (2, 3, 4)
        close(in_steps(net, video), expected)
        close(in_chunks(net, video, [2, 1]), expected)
    assert len(net.state_names) == sum(len(layer.cell.states) for layer in net.recurrent_layers)
    assert type(net.recurrent_layers[-1].cell) is not LinearCell
    last = kind in ("dense", "plain", "wide", "snippets") and top != "traditional"  # the last convolution is a unit
    assert len(units(net)) == len(units(rcn)) - last
    assert all(torch.equal(value, before[name]) for name, value in rcn.state_dict().items())


@torch.no_grad()
def test_with_no_recurrent_weights_prevrnn_on_rcn_gives_the_cnn_on_a_still_video():
    cnn, rcn = converted("fc")
    net = prernn.convert(rcn, "fc7", cell="vrnn")
    picture = film()[:, 0]
    assert (net(still(picture))[0] - still(cnn(picture)))[:, 1:].abs().max() > 1e-6
    net.recurrent_layers[-1].hidden_to_hidden.zero_()
    close(net(still(picture))[0], still(cnn(picture)))


@torch.no_grad()
def test_the_layer_under_prernn_computes_what_it_did_without_rcn():
    """A unit that becomes the PreVRNN layer leaves nothing of its own behind."""
    cnn, rcn = converted("plain")
    net, plain = (prernn.convert(source, "conv", cell="vrnn", **SMALL) for source in (rcn, cnn))
    for each in (net, plain):
        each.recurrent_layers[-1].hidden_to_hidden.zero_()
    picture = film()[:, 0]
    close(net(still(picture))[0], plain(still(picture))[0])
    assert list(units(net)) == ["stem"]
    assert parameters_of(net)[0].keys() == parameters_of(plain)[0].keys()


@torch.no_grad()
def test_a_network_that_has_run_at_a_size_converts_like_one_that_has_not():
    """What it knows of the sizes of its maps is not what holds for the network that is made of it."""
    rcn = copy.deepcopy(converted("wide")[1])
    video = film(2, 3, (6, 10))
    rcn(video)
    net = prernn.convert(rcn, cell="gru")
    close(in_steps(net, video), net(video))


# --- files and streams


@pytest.mark.parametrize(
    "recipe",
    [
        NetworkSpec("timm/test_resnet", method="rcn", hidden="sparse:0.1", rcn={"mix": "sum"}),
        NetworkSpec("timm/test_resnet", method="rcn", layer="layer4.*", rcn={"init": "random", "pretrained": False}),
        NetworkSpec("timm/test_resnet", inflate={"frames": 4, "time": 5, "init": "mean"}, method="framewise"),
        NetworkSpec("timm/test_resnet", rcn_below=True, hidden="diagonal", cell="lstm"),
        NetworkSpec("timm/test_resnet", rcn_below=True, method="traditional", hidden_size=7),
    ],
    ids=["rcn", "some-layers", "inflated", "prernn-on-rcn", "traditional-on-rcn"],
)
@torch.no_grad()
def test_a_checkpoint_rebuilds_the_network(recipe, tmp_path):
    net = recipe.build(5).eval()
    for parameter in net.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    net.recipe = replace(net.recipe, labels=list("abcde"))
    prernn.save(net, tmp_path)
    again = prernn.load(tmp_path)
    video = torch.randn(2, 3, 3, *([4] if recipe.inflate else []), 32, 32)
    found, expected = again(video), net(video)
    assert torch.equal(found[0], expected[0])
    assert expected[0].std() > 0
    close(found[1], expected[1], atol=0)
    assert again.recipe.labels == net.recipe.labels
    assert [str(a.hidden_to_hidden.structure) for a in again.recurrent_layers] == [
        str(a.hidden_to_hidden.structure) for a in net.recurrent_layers
    ]


@torch.no_grad()
def test_a_stream_goes_frame_by_frame_and_resumes():
    net = prernn.convert(drawn(prernn.convert_rcn(converted("wide")[0], **SMALL)), cell="gru")
    for size in ((8, 8), (6, 10)):
        video = film(3, 5, size)
        expected = net(video)[0]
        alone, together = Stream(net), Stream(net, batch_size=3)
        close(torch.stack([alone(frame) for frame in video[0]]), expected[0])
        for time in range(3):
            close(together(video[:, time]), expected[:, time])
        saved = together.state_dict()
        assert set(saved) == set(net.state_names)
        assert saved["state_0_started"].tolist() == [[1], [1], [1]]
        other = Stream(net, batch_size=3)
        other.load_state_dict(saved)
        for each in (together, other):
            close(torch.stack([each(video[:, time]) for time in (3, 4)], dim=1), expected[:, 3:])
        alone.reset()
        close(alone(video[0, 0]), expected[0, 0])
        with pytest.raises(ValueError, match="state"):
            Stream(net, batch_size=2).load_state_dict(saved)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("step", "sparse:0.1"),
        ("sequence", "diagonal"),
        *(pytest.param("step", spec, marks=pytest.mark.slow) for spec in ("full", "diagonal")),
        *(pytest.param("sequence", spec, marks=pytest.mark.slow) for spec in ("full", "sparse:0.1")),
    ],
)
@torch.no_grad()
def test_an_exported_network_computes_the_same(kind, spec, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = copy.deepcopy(trained("wide", spec)).float()
    prernn.export_onnx(net, tmp_path / "net.onnx", kind, image_size=(8, 8))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    file = runtime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    names = [value.name for value in file.get_inputs()]
    assert names[1:] == net.state_names == ["state_0_h", "state_0_started", "state_1_h", "state_1_started"]
    for batch in (2, 3, 1):
        video = film(batch, 5).float()
        expected, last = net(video)
        leaves, outputs = [leaf for part in net.init_state(batch) for leaf in part], []
        for part in video.split(2 if kind == "sequence" else 1, dim=1):
            frames = part if kind == "sequence" else part[:, 0]
            feeds = {name: value.numpy() for name, value in zip(names, [frames.contiguous(), *leaves], strict=True)}
            out, *following = map(torch.from_numpy, file.run(None, feeds))
            outputs.append(out if kind == "sequence" else out.unsqueeze(1))
            leaves = following
        close(torch.cat(outputs, dim=1), expected, atol=1e-5, rtol=1e-4)
        close(leaves, [leaf for part in last for leaf in part], atol=1e-5, rtol=1e-4)


# --- activation checkpointing


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
@pytest.mark.parametrize("kind", ["wide", "fc", "snippets"])
def test_checkpoints_change_neither_outputs_nor_gradients(kind, frames):
    net = prernn.convert(trained(kind), cell="gru", outputs=3)
    video = video_of(kind, steps=5).requires_grad_()
    leaves = [video, *net.parameters()]
    results = []
    for options in ({}, {"checkpoint": frames}):
        out, state = net(video, **options)
        loss = out.square().sum() + sum(leaf.sin().sum() for part in state for leaf in part)
        results.append((out, state, torch.autograd.grad(loss, leaves)))
    close(results[1], results[0], atol=1e-10)
    assert all(bool(grad.any()) for grad in results[0][2][:1])


def test_checkpoints_go_on_from_a_state_and_hand_gradients_to_it():
    net, video = trained("wide"), film(2, 5)
    first = draw_state(net, 2, started=[0.0, 1.0])
    results = []
    for options in ({}, {"checkpoint": 2}):
        maps = [h.clone().requires_grad_() for h, _ in first]
        out, _ = net(video, tuple((h, flag) for h, (_, flag) in zip(maps, first, strict=True)), **options)
        results.append((out, torch.autograd.grad(out.square().sum(), maps)))
    close(results[1], results[0], atol=1e-11)
    assert not results[0][1][0][0].any()  # of a stream that begins
    assert results[0][1][0][1].any()


def kept_bytes(net, video, **options):
    """Memory that a forward pass takes and keeps."""
    net(video, **options)  # what is allocated once
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept_alive = net(video, **options)
    assert kept_alive[0].requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_checkpoints_keep_less_than_half():
    net, video = trained("wide"), film(2, 16, (32, 32))
    whole, parts = kept_bytes(net, video), kept_bytes(net, video, checkpoint=4)
    maps = 2 * 16 * SIZE * 16 * 16 * 8
    assert whole > 4 * maps  # each unit's output, and what stands behind it
    assert 0 < parts < whole / 2


def test_checkpoints_need_frozen_statistics_and_a_frame():
    net = copy.deepcopy(trained("wide"))
    for frames in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            net(film(), checkpoint=frames)
    with pytest.raises(NotImplementedError, match="batch normalization"):
        net.train()(film(), checkpoint=2)
    freeze_statistics(net)
    assert net(film(), checkpoint=2)[0].shape == (2, 4, 5)


# --- in two parts


@settings(max_examples=10)
@given(spec=st.sampled_from(STRUCTURES), steps=st.integers(1, 6), batch=st.integers(1, 3))
@torch.no_grad()
def test_a_network_in_two_parts_is_the_whole(spec, steps, batch):
    """`split` cuts before the first unit."""
    net, video = trained("grouped", spec), film(batch, steps)
    trunk, rest = split(net)
    frames = video.transpose(0, 1).flatten(0, 1)
    out, state = rest(trunk(frames), net.init_state(batch))
    expected, last = net(video)
    close(out.unflatten(0, (steps, batch)).transpose(0, 1), expected)
    close(state, last)
