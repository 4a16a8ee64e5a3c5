"""Converted networks against eqs. 5-12 of PreRNN written out, and everything that conversion promises besides."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prernn
from equations import EQUATIONS, close, run_equations, vrnn_step
from prernn.conversion.network import open_network
from prernn.layers.cells import CELLS, make_cell, recurrent_gates
from prernn.layers.input_to_hidden import INPUTS
from prernn.layers.structures.parse import hidden_structure
from small_cnns import CNNS, SIZE, DenseNet, FcNet, PlainNet, ResidualNet, film, prepare, shake

SMALL = {"image_size": (8, 8)}
FRAME = {FcNet: "fc", ResidualNet: "residual", DenseNet: "dense", PlainNet: "plain"}
everything = pytest.mark.parametrize("form", list(INPUTS))
each_cell = pytest.mark.parametrize("cell", list(CELLS))


def gate_weights(layer) -> list[torch.Tensor]:
    """W_g of each gate: the CNN's own for one of them, copies for the others in their order."""
    own, gates = layer.input_to_hidden.layer.weight, len(layer.cell.gates)
    copies = getattr(layer.input_to_hidden, "copies", None)
    if copies is None:
        return [own] * gates
    weights = list(copies)
    weights.insert(layer.cell.own_gate, own)
    return weights


def batch_norm(x, bn):
    """With the pre-computed statistics."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    x = (x - bn.running_mean.view(shape)) / torch.sqrt(bn.running_var.view(shape) + bn.eps)
    return x * bn.weight.view(shape) + bn.bias.view(shape)


# u_t(g) and the outputs from y_t, for each kind of CNN, from the CNN's own layers


def fc_input(cnn, frame, weight):
    """Eq. 7, an fc layer: u = W_g x + b (the paper leaves biases out)."""
    x = torch.flatten(F.adaptive_avg_pool2d(F.relu(batch_norm(cnn.conv(frame), cnn.bn)), 2), 1)
    return F.relu(cnn.fc6(x)) @ weight.T + cnn.fc7.bias


def residual_input(cnn, frame, weight):
    """Eq. 7, a conv layer: u = P(B(W_g * x) + gamma), gamma added."""
    gamma = F.relu(batch_norm(cnn.stem(frame), cnn.bn0))
    x = F.relu(batch_norm(cnn.conv1(gamma), cnn.bn1))
    x = F.relu(batch_norm(cnn.conv2(x), cnn.bn2))
    return (batch_norm(F.conv2d(x, weight), cnn.bn3) + gamma).mean((2, 3))


def dense_input(cnn, frame, weight):
    """Eq. 7, a conv layer whose maps join the earlier ones: gamma concatenated, B behind."""
    x = cnn.conv0(frame)
    x = torch.cat([x, cnn.conv1(F.relu(batch_norm(x, cnn.norm1)))], 1)
    y = F.conv2d(F.relu(batch_norm(x, cnn.norm2)), weight, padding=1)
    return batch_norm(torch.cat([x, y], 1), cnn.norm3).mean((2, 3))


def plain_input(cnn, frame, weight):
    """Eq. 7, a conv layer without a shortcut: u = P(B(W_g * x + b))."""
    x = F.conv2d(F.relu(cnn.stem(frame)), weight, cnn.conv.bias)
    return batch_norm(x, cnn.bn).mean((2, 3))


INPUT_OF = {FcNet: fc_input, ResidualNet: residual_input, DenseNet: dense_input, PlainNet: plain_input}
OUTPUT_OF = {FcNet: "fc8", ResidualNet: "fc", DenseNet: "fc", PlainNet: "fc"}
ACTIVATION_OF = {FcNet: torch.relu, ResidualNet: torch.relu, DenseNet: torch.relu, PlainNet: F.relu6}


def written_out(cnn, net, video, state):
    """The converted network by the equations: from the CNN, and the new weights of its one recurrent layer."""
    (layer,) = net.recurrent_layers
    u = torch.stack(
        [
            torch.stack([INPUT_OF[type(cnn)](cnn, frame, weight) for weight in gate_weights(layer)], dim=1)
            for frame in video.unbind(1)
        ]
    )  # (T, B, G, D)
    step = EQUATIONS[CELL_NAME[type(layer.cell)]]
    if step is vrnn_step:

        def step(*arguments):
            return vrnn_step(*arguments, activation=ACTIVATION_OF[type(cnn)])

    y, last = run_equations(step, u, state, layer.hidden_to_hidden.matrix(), layer.bias)
    return getattr(cnn, OUTPUT_OF[type(cnn)])(y).transpose(0, 1), (last,)


CELL_NAME = {type(make_cell(name)): name for name in EQUATIONS}


@pytest.mark.parametrize("make", list(INPUT_OF), ids=lambda make: FRAME[make])
@pytest.mark.parametrize("form", ["gate", "single"])
@pytest.mark.parametrize("cell", list(EQUATIONS))
@pytest.mark.parametrize("hidden", ["full", "band:5"])
@torch.no_grad()
def test_equations_5_to_12(make, form, cell, hidden):
    cnn = prepare(make())
    net = shake(prernn.convert(cnn, cell=cell, input=form, hidden=hidden, **SMALL))
    assert prernn.recurrent_parameters(net).layers[0].name == make.layer
    video = film()
    state = tuple(torch.randn(2, SIZE, dtype=torch.float64) for _ in make_cell(cell).states)
    close(net(video, (state,)), written_out(cnn, net, video, state))


@pytest.mark.parametrize("make", list(INPUT_OF), ids=lambda make: FRAME[make])
@torch.no_grad()
def test_the_input_at_conversion_is_what_the_cnn_hands_to_its_activation(make):
    cnn = prepare(make())
    net = prernn.convert(cnn, cell="lstm", **SMALL)
    (layer,) = net.recurrent_layers
    seen = []
    layer.input_to_hidden.register_forward_hook(lambda module, args, u: seen.append(u))
    frame = film()[:, 0]
    net.step(frame)
    weight = cnn.get_submodule(make.layer).weight
    close(seen[0], INPUT_OF[make](cnn, frame, weight).unsqueeze(1).expand(-1, 4, -1))


# --- the layer's own activation


ACTS = [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Tanh, nn.Sigmoid, nn.Mish]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("make", [FcNet, PlainNet], ids=["fc", "conv"])
@torch.no_grad()
def test_vrnn_keeps_the_layers_own_activation_and_no_other_cell_does(make, act):
    cnn = prepare(make(act=act))
    net = shake(prernn.convert(cnn, cell="vrnn", **SMALL))
    (layer,) = net.recurrent_layers
    assert type(layer.activation) is act
    assert layer.cell.activation is layer.activation
    if act is nn.PReLU:
        assert any(name.endswith("activation.weight") for name, _ in net.named_parameters())
    video = film()
    state = (torch.randn(2, SIZE, dtype=torch.float64),)
    own = cnn.act7 if make is FcNet else cnn.act
    if make is FcNet:
        before = copy.deepcopy(cnn)
        before.act6 = nn.ReLU()
        u = [torch.flatten(cnn.pool(F.relu(cnn.bn(cnn.conv(frame)))), 1) for frame in video.unbind(1)]
        u = torch.stack([cnn.fc7(cnn.act6(cnn.fc6(x))).unsqueeze(1) for x in u])
    else:
        u = torch.stack([plain_input(cnn, frame, cnn.conv.weight).unsqueeze(1) for frame in video.unbind(1)])
    matrix = layer.hidden_to_hidden.matrix()
    y, _ = run_equations(lambda *a: vrnn_step(*a, activation=own), u, state, matrix, layer.bias)
    close(net(video, (state,))[0], cnn.get_submodule(OUTPUT_OF[make])(y).transpose(0, 1))
    traced = open_network(cnn, **SMALL)
    for cell in set(CELLS) - {"vrnn"}:
        gated = prernn.convert(traced, cell=cell)
        own_acts = [m for m in gated.modules() if type(m) is act]
        assert len(own_acts) == (make is FcNet)  # fc6's alone


def test_a_copy_of_a_network_uses_its_own_activation():
    net = prernn.convert(prepare(FcNet(act=nn.PReLU)), cell="vrnn", **SMALL)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(float("nan"))
    assert bool(other(film())[0].isfinite().all())
    (layer,) = other.recurrent_layers
    assert layer.cell.activation is layer.activation


# --- what is new, what is the CNN's


@each_cell
@everything
@pytest.mark.parametrize("kind", list(CNNS))
def test_weights_that_conversion_introduces(cell, form, kind):
    """Single brings W_hh alone; gate brings copies for all gates but the one that holds the CNN's own weights."""
    cnn = prepare(CNNS[kind]())
    net = prernn.convert(cnn, cell=cell, input=form, **SMALL)
    (layer,) = net.recurrent_layers
    gates, own = len(layer.cell.gates), cnn.get_submodule(cnn.layer).weight.numel()
    extra = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in cnn.parameters())
    own_structure = hidden_structure(getattr(layer.cell, "structure", "full"))
    recurrent = recurrent_gates(layer.cell) * (own_structure.weight_count(SIZE) + SIZE)  # W_hh and its biases
    assert extra == recurrent + (0 if form == "single" else (gates - 1) * own)
    assert "copies" not in dict(layer.input_to_hidden.named_parameters()) or form == "gate"
    assert not layer.bias.any()
    for name, value in cnn.state_dict().items():  # nothing of the CNN is lost
        assert any(value.shape == other.shape and torch.equal(value, other) for other in net.state_dict().values()), (
            name
        )


@pytest.mark.parametrize("kind", list(CNNS))
def test_the_gates_train_apart_and_the_single_form_together(kind):
    for form in INPUTS:
        net = prernn.convert(prepare(CNNS[kind]()), cell="gru", input=form, **SMALL)
        (layer,) = net.recurrent_layers
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        net(film())[0].square().sum().backward()
        optimizer.step()
        first, second, own = gate_weights(layer)
        assert own is layer.input_to_hidden.layer.weight
        assert torch.equal(first, own) == torch.equal(first, second) == (form == "single")


@pytest.mark.parametrize("kind", list(CNNS))
def test_pretrained_false_draws_the_layers_weights_anew_and_no_others(kind):
    cnn = prepare(CNNS[kind]())
    kept, drawn = (prernn.convert(cnn, cell="gru", pretrained=flag, **SMALL) for flag in (True, False))
    assert [(n, p.shape) for n, p in kept.named_parameters()] == [(n, p.shape) for n, p in drawn.named_parameters()]
    own = cnn.get_submodule(cnn.layer).weight
    (layer,) = drawn.recurrent_layers
    new = layer.input_to_hidden.layer.weight
    assert torch.equal(kept.recurrent_layers[0].input_to_hidden.layer.weight, own)
    assert not (new == own).any()
    assert not any((weight == own).any() for weight in gate_weights(layer))
    assert 0.3 < new.std() / own.std() < 3
    for name, parameter in kept.named_parameters():
        if not name.startswith(f"cnn.{cnn.layer}."):
            assert torch.equal(parameter, dict(drawn.named_parameters())[name]), name
    assert torch.equal(cnn.get_submodule(cnn.layer).weight, own)


# --- batch normalization


@everything
@pytest.mark.parametrize("make", [ResidualNet, DenseNet, PlainNet], ids=lambda make: FRAME[make])
def test_the_layers_batch_norm_keeps_its_statistics_in_training(make, form):
    cnn = prepare(make())
    net = prernn.convert(cnn, cell="gru", input=form, **SMALL).train()
    (layer,) = net.recurrent_layers
    frozen = {name: value.clone() for name, value in layer.named_buffers() if "running" in name or "num" in name}
    assert len(frozen) == 3
    everywhere = {name: value.clone() for name, value in net.named_buffers() if "running" in name}
    seen = []
    layer.input_to_hidden.register_forward_hook(lambda module, args, u: seen.append((args, u)))
    out, _ = net(film())
    for name, value in frozen.items():
        assert torch.equal(layer.get_buffer(name), value), name
    # the trunk's own norms do follow the batch
    others = [name for name in everywhere if not any(part in name for part in frozen)]
    if make is not PlainNet:
        assert others
        assert not any(torch.equal(net.get_buffer(name), everywhere[name]) for name in others)
    # and what comes out in training is what those statistics give
    (inputs, u) = seen[0]
    close(u, copy.deepcopy(layer.input_to_hidden).eval()(*inputs))
    bn = {ResidualNet: "bn3", DenseNet: "norm3", PlainNet: "bn"}[make]
    norms = [m for m in layer.input_to_hidden.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.training for m in norms] == [False]
    assert torch.equal(norms[0].running_mean, cnn.get_submodule(bn).running_mean)
    out.sum().backward()
    assert norms[0].weight.grad is not None  # its scale and offset still train
    for parent in (net, net.cnn, layer, layer.input_to_hidden):
        parent.eval()
        parent.train()
        assert not norms[0].training


# --- several layers, further layers on top


@each_cell
@everything
@torch.no_grad()
def test_two_layers_at_once(cell, form):
    cnn = prepare(FcNet())
    net = shake(prernn.convert(cnn, ["fc7", "fc6"], cell=cell, input=form, **SMALL))
    assert [count.name for count in prernn.recurrent_parameters(net).layers] == ["fc6", "fc7"]
    one_by_one = prernn.convert(
        prernn.convert(cnn, "fc6", cell=cell, input=form, **SMALL), "fc7", cell=cell, input=form
    )
    one_by_one.load_state_dict(net.state_dict())
    video = film()
    out, state = net(video)
    close(one_by_one(video), (out, state))
    # by hand: fc6 recurrent, its outputs into fc7 recurrent
    first, second = net.recurrent_layers
    x = [torch.flatten(cnn.pool(F.relu(cnn.bn(cnn.conv(frame)))), 1) for frame in video.unbind(1)]
    names = {"vrnn": lambda *a: vrnn_step(*a, activation=torch.relu)}
    step = names.get(cell) or EQUATIONS[cell]
    zeros = tuple(torch.zeros(2, SIZE, dtype=torch.float64) for _ in first.cell.states)
    for layer, bias in ((first, cnn.fc6.bias), (second, cnn.fc7.bias)):
        u = torch.stack([torch.stack([row @ w.T + bias for w in gate_weights(layer)], dim=1) for row in x])
        x, _ = run_equations(step, u, zeros, layer.hidden_to_hidden.matrix(), layer.bias)
    close(out, cnn.fc8(x).transpose(0, 1))


@torch.no_grad()
def test_layers_of_different_cells_and_structures():
    cnn = prepare(FcNet())
    net = prernn.convert(cnn, "fc6", cell="lstm", hidden="band:3", **SMALL)
    net = prernn.convert(net, "fc7", cell="vrnn", input="single", hidden="diagonal")
    assert [(c.name, c.cell, c.hidden) for c in prernn.recurrent_parameters(net).layers] == [
        ("fc6", "LSTM", "band:3"),
        ("fc7", "VRNN", "diagonal"),
    ]
    assert [len(layer) for layer in net.init_state(1)] == [2, 1]
    video, state = film(), None
    expected, last = net(video)
    for time in range(4):
        out, state = net.step(video[:, time], state)
        close(out, expected[:, time])
    close(state, last)


def test_layer_none_on_a_converted_network_takes_the_next_one():
    net = prernn.convert(prernn.convert(FcNet(), **SMALL), **SMALL)
    assert [count.name for count in prernn.recurrent_parameters(net).layers] == ["fc6", "fc7"]


@each_cell
@torch.no_grad()
def test_traditional_on_a_converted_network(cell):
    """The supplement's three layers: fc6 and fc7 converted, a randomly initialized one on top."""
    cnn = prepare(FcNet())
    pre = prernn.convert(cnn, ["fc6", "fc7"], cell=cell, input="single", **SMALL)
    net = prernn.traditional(pre, cell=cell, hidden_size=7, outputs=4)
    layers = net.recurrent_layers
    assert [layer.hidden_size for layer in layers] == [SIZE, SIZE, 7]
    assert len(pre.recurrent_layers) == 2
    counts = prernn.recurrent_parameters(net).layers
    gates = len(make_cell(cell).gates)
    assert [c.input_to_hidden for c in counts] == [0, 0, gates * 7 * SIZE]
    video = film()
    out, state = net(video)
    assert out.shape == (2, 4, 4)
    # the third layer reads what the output layer read
    seen = []
    pre.output_layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    pre(video)
    third = layers[2]
    u = (seen[0] @ third.input_to_hidden.linear.weight.T + third.input_to_hidden.linear.bias).view(4, 2, gates, 7)
    y, last = run_equations(EQUATIONS[cell], u, third.init_state(2), third.hidden_to_hidden.matrix(), third.bias)
    close(out, net.output_layer(y).transpose(0, 1))
    close(state[2], last)


@each_cell
@pytest.mark.parametrize("make", list(INPUT_OF), ids=lambda make: FRAME[make])
@pytest.mark.parametrize("num_layers", [1, 2])
@torch.no_grad()
def test_traditional_reads_the_vector_of_the_output_layer(cell, make, num_layers):
    cnn = prepare(make())
    net = prernn.traditional(cnn, cell=cell, hidden_size=9, num_layers=num_layers, hidden="band:3", **SMALL)
    seen = []
    cnn.get_submodule(OUTPUT_OF[make]).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    video = film()
    for frame in video.unbind(1):
        cnn(frame)
    x = torch.stack(seen)  # (T, B, D)
    for layer in net.recurrent_layers:
        gates = len(layer.cell.gates)
        u = layer.input_to_hidden.linear(x).unflatten(2, (gates, 9))
        x, _ = run_equations(EQUATIONS[cell], u, layer.init_state(2), layer.hidden_to_hidden.matrix(), layer.bias)
    out, state = net(video)
    close(out, net.output_layer(x).transpose(0, 1))
    assert net.output_layer.weight.shape == (5, 9)
    stepped, carried = [], None
    for frame in video.unbind(1):
        y, carried = net.step(frame, carried)
        stepped.append(y)
    close((torch.stack(stepped, 1), carried), (out, state))


def test_traditional_of_the_same_size_keeps_the_output_layer():
    cnn = prepare(FcNet())
    net = prernn.traditional(cnn, **SMALL)
    assert net.recurrent_layers[0].hidden_size == SIZE
    assert torch.equal(net.output_layer.weight, cnn.fc8.weight)
    bound = SIZE**-0.5
    projection = net.recurrent_layers[0].input_to_hidden.linear
    assert all(p.abs().max() <= bound for p in projection.parameters())
    assert projection.weight.abs().max() > 0.9 * bound
    with pytest.raises(ValueError, match="num_layers: expected a whole number of at least 1, got 0"):
        prernn.traditional(cnn, num_layers=0, **SMALL)


@torch.no_grad()
def test_a_traditional_vrnn_has_the_nonlinearity_that_is_asked_for():
    cnn, video = prepare(FcNet()), film()
    outs = {}
    for name in (None, "tanh", "relu"):
        torch.manual_seed(1)
        net = prernn.traditional(cnn, cell="vrnn", hidden_size=9, activation=name, **SMALL)
        (layer,) = net.recurrent_layers
        u = torch.randn(4, 2, 1, 9, dtype=torch.float64)
        h, hs = layer.init_state(2)[0], []
        for gate in u:
            h = {"relu": torch.relu}.get(name, torch.tanh)(gate[:, 0] + h @ layer.hidden_to_hidden.matrix()[0].T)
            hs.append(h)
        close(layer.run(u, layer.init_state(2))[0], torch.stack(hs))
        outs[name] = net(video)[0]
    assert torch.equal(outs[None], outs["tanh"])
    assert not torch.equal(outs[None], outs["relu"])


@each_cell
@torch.no_grad()
def test_a_post_processing_rnn_reads_what_the_cnn_answers(cell):
    cnn, video = prepare(FcNet()), film()
    net = prernn.traditional(cnn, cell=cell, hidden_size=9, num_layers=2, behind="outputs", **SMALL)
    first, second = net.recurrent_layers
    x = torch.stack([cnn(frame) for frame in video.unbind(1)])  # (T, B, K)
    for layer in (first, second):
        gates = len(layer.cell.gates)
        u = layer.input_to_hidden.linear(x).unflatten(2, (gates, 9))
        x, _ = layer.run(u, layer.init_state(2))
    close(net(video)[0], net.output_layer(x).transpose(0, 1))
    assert net.output_layer.weight.shape == (5, 9)  # as many outputs as the CNN's
    kept = {name: value for name, value in net.cnn.state_dict().items() if name.startswith("fc8.")}
    assert torch.equal(kept["fc8.weight"], cnn.fc8.weight)
    new = {id(p) for p in net.new_parameters()}
    assert id(net.output_layer.weight) in new
    assert id(net.cnn.fc8.weight) not in new
    other = prernn.traditional(cnn, cell=cell, behind="outputs", outputs=3, **SMALL)
    assert other(video)[0].shape == (2, 4, 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"cell": "gru", "activation": "relu"},
            "activation: expected tanh or relu with the cell vrnn, got 'relu' with",
        ),
        ({"cell": "vrnn", "activation": "elu"}, "got 'elu'"),
        ({"behind": "inputs"}, "behind: expected one of features, outputs, got 'inputs'"),
    ],
)
def test_what_a_traditional_rnn_can_not_be(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        prernn.traditional(FcNet(), **options, **SMALL)
