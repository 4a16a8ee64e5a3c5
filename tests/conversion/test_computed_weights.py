"""CNNs whose weights are computed from others: pruned, or of weight or spectral norm, in torch's old and new form."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import prernn
from equations import close
from prernn.conversion.accounting import frame_cost, matched_hidden_size
from prernn.layers.cells import CELLS
from prernn.layers.computed_weights import settle
from prernn.layers.input_to_hidden import INPUTS
from prernn.sparsity.normalize import normalized
from small_cnns import FcNet, ResidualNet, film, prepare

SMALL = {"image_size": (8, 8)}


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.4)
    prune.random_unstructured(layer, "weight", 0.2)
    if layer.bias is not None:
        prune.l1_unstructured(layer, "bias", 1)


KINDS = {
    "pruned": pruned,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
each_kind = pytest.mark.parametrize("kind", list(KINDS))
each_cnn = pytest.mark.parametrize("cnn_class", [FcNet, ResidualNet])


def computed(kind, cnn_class=FcNet):
    """A CNN all of whose layers are of that kind, with a gradient in the weights as after some training."""
    cnn = prepare(cnn_class())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old form is deprecated
        for layer in list(cnn.modules()):
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                KINDS[kind](layer)
    cnn(film()[:, 0]).sum().backward()
    cnn.zero_grad()
    return cnn.eval()


def plain(cnn):
    """The same function with plain weights."""
    same = type(cnn)().double().eval()
    for (_, own), (_, other) in zip(same.named_modules(), cnn.named_modules(), strict=False):
        assert own is not other
    values = {name: cnn.get_submodule(name.rpartition(".")[0]) for name in same.state_dict()}
    same.load_state_dict({name: getattr(part, name.rpartition(".")[2]) for name, part in values.items()})
    return same


def train(net, video, steps=3):
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        net(video)[0].sum().backward()
        optimizer.step()


@each_kind
@each_cnn
def test_the_source_stays_and_the_network_computes_the_same(kind, cnn_class):
    cnn, video = computed(kind, cnn_class), film()
    names, expected = list(cnn.state_dict()), torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1)
    net = prernn.framewise(cnn, **SMALL)
    close(net(video)[0], expected)
    train(net, video)
    assert (net(video)[0] - expected).abs().max() > 1e-9
    still = video[:, :1].expand(-1, 3, -1, -1, -1)
    close(prernn.convert_rcn(cnn, **SMALL)(still)[0][:, 2], expected[:, 0])
    for other in (prernn.traditional(cnn, **SMALL), prernn.traditional(prernn.convert(net))):
        assert other(video)[0].shape == expected.shape
    close(
        prernn.framewise(prernn.inflate(cnn, frames=3, **SMALL), image_size=(3, 8, 8)).step(
            video[:, :1].transpose(1, 2).expand(-1, -1, 3, -1, -1)
        )[0],
        expected[:, 0],
    )
    assert list(cnn.state_dict()) == names
    close(torch.stack([cnn(frame) for frame in video.unbind(1)], dim=1), expected)


@each_kind
@pytest.mark.parametrize("form", list(INPUTS))
@pytest.mark.parametrize("cell", list(CELLS))
def test_a_layer_that_becomes_recurrent(cell, form, kind):
    cnn, video = computed(kind), film()
    net, same = (prernn.convert(each, "fc7", cell=cell, input=form, **SMALL) for each in (cnn, plain(cnn)))
    own, other = net.recurrent_layers[0].hidden_to_hidden, same.recurrent_layers[0].hidden_to_hidden
    other.load_state_dict(own.state_dict())
    close(net(video), same(video))
    train(net, video)
    layer = net.recurrent_layers[0].input_to_hidden.layer
    if kind == "pruned":
        assert not layer.weight[layer.weight_mask == 0].any()
    assert not torch.equal(layer.weight, plain(cnn).fc7.weight)
    frame_cost(net)  # runs on shapes alone
    close(prernn.framewise(net)(video), net(video))
    with pytest.raises(
        NotImplementedError, match=r"can't initialize fc7.(weight|bias) at random: it is computed from others"
    ):
        prernn.convert(cnn, "fc7", pretrained=False, **SMALL)
    with pytest.raises(NotImplementedError, match=r"can't initialize .* at random"):
        prernn.convert_rcn(cnn, pretrained=False, **SMALL)


@each_kind
@each_cnn
def test_sparsity(kind, cnn_class):
    cnn, frame = computed(kind, cnn_class), film()[:, 0]
    names, expected = list(cnn.state_dict()), cnn(frame)
    same = plain(cnn)
    close(normalized(cnn)(frame), expected)
    small = prernn.quantize(cnn, 3.0, order="natural")
    assert sorted(row.name for row in prernn.quantization_report(small)) == sorted(
        row.name for row in prernn.quantization_report(prernn.quantize(same, 3.0))
    )
    close(small(frame), prernn.quantize(same, 3.0, order="natural")(frame))
    assert copy.deepcopy(small)(frame).shape == expected.shape
    close(
        prernn.online_sparsity(cnn, conv=0.5, linear=0.5)(frame),
        prernn.online_sparsity(same, conv=0.5, linear=0.5)(frame),
    )
    assert list(cnn.state_dict()) == names
    close(cnn(frame), expected)


@each_kind
def test_counts(kind):
    assert matched_hidden_size(computed(kind), "fc7", cell="lstm") == matched_hidden_size(FcNet(), "fc7", cell="lstm")


# torch itself can't load into what its old spectral norm has left
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "old spectral norm"])
def test_quantized_weights_are_loaded_into_a_module_of_that_kind(kind, tmp_path):
    cnn, frame = computed(kind), film()[:, 0]
    small = prernn.quantize(cnn, 3.0)
    loaded = prernn.load_quantized(computed(kind), prernn.save_quantized(small, tmp_path / "q.safetensors"))
    close(loaded(frame), small(frame))


@each_kind
def test_recurrent_weights_of_that_kind(kind):
    """Whoever prunes W_hh trains what is left, in a network and in a layer, and streams what was trained."""
    if kind in ("old weight norm", "old spectral norm"):
        pytest.skip("deprecated, and of matrices alone")
    video = film()
    net = prernn.convert(prepare(FcNet()), "fc7", cell="gru", **SMALL)
    layer = prernn.LSTM(3, 4, dtype=torch.float64)
    for module, name in ((net.recurrent_layers[0].hidden_to_hidden, "weight"), (layer, "weight_hh_l0")):
        if kind == "pruned":
            prune.l1_unstructured(module, name, 0.5)
        else:
            KINDS[kind](module, name)
    before = net.recurrent_layers[0].hidden_to_hidden.weight.clone()
    train(net, video)
    after = net.recurrent_layers[0].hidden_to_hidden.weight
    assert not torch.equal(before, after)
    frame = video[:, 0]
    close(net.step(frame)[0], net(video[:, :1])[0][:, 0])
    sequence = torch.randn(5, 2, 3, dtype=torch.float64)
    train(layer, sequence)
    stepped = layer.step(sequence[0])[0]
    close(stepped, layer(sequence[:1])[0][0])
    if kind == "pruned":
        assert int((layer.weight_hh_l0 == 0).sum()) == 32
        assert int((net.recurrent_layers[0].hidden_to_hidden.weight == 0).sum()) == after.numel() // 2
    assert prernn.quantization_report(prernn.quantize(layer, 2.0)).weights == 16 * 7
    assert prernn.framewise(net)(video)[0].shape == (2, 4, 5)


def test_a_copy_that_is_settled_leaves_the_original():
    """torch's own removal takes the weight of copies too."""
    cnn = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)))
    twin = settle(copy.deepcopy(cnn))
    assert [name for name, _ in twin.named_parameters()] == ["0.bias", "0.weight"]
    assert type(twin[0]) is nn.Linear
    close(cnn(torch.ones(1, 3)), twin(torch.ones(1, 3)))
