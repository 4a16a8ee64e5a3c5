"""prernn.VRNN, LSTM and GRU against torch.nn's: outputs, gradients, lengths, packed sequences, names."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import prernn
from equations import close
from prernn import ops
from prernn.layers import recurrent_stack
from prernn.layers.cells import CELLS, make_cell
from prernn.layers.recurrent_stack import RecurrentStack
from rnn_layers import DOUBLE, OURS, draw_state
from strategies import SPECS

PAIRS = {
    "tanh": (torch.nn.RNN, prernn.VRNN, {}, {}),
    "relu": (torch.nn.RNN, prernn.VRNN, {"nonlinearity": "relu"}, {"activation": "relu"}),
    "nonlinearity": (torch.nn.RNN, prernn.VRNN, {"nonlinearity": "relu"}, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, prernn.LSTM, {}, {}),
    "projected": (torch.nn.LSTM, prernn.LSTM, {"proj_size": 1}, {"proj_size": 1}),
    "gru": (torch.nn.GRU, prernn.GRU, {}, {}),
}


def pair(kind, *sizes, **options):
    """torch's layer and ours with the same weights, which our layer loads as they are."""
    theirs_class, ours_class, theirs_only, ours_only = PAIRS[kind]
    theirs = theirs_class(*sizes, **options, **theirs_only, **DOUBLE)
    ours = ours_class(*sizes, **options, **ours_only, **DOUBLE)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


layers = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 3),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
    }
)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(list(PAIRS)),
    sizes=st.tuples(st.integers(1, 4), st.integers(2, 5)),
    options=layers,
    steps=st.integers(1, 5),
    batch=st.one_of(st.none(), st.integers(1, 3)),
    given_state=st.booleans(),
    training=st.booleans(),
    backend=st.sampled_from(["reference", None]),
)
def test_equals_torch(kind, sizes, options, steps, batch, given_state, training, backend):
    """Law 3: outputs, states and gradients; batch None is input without a batch, backend None the choice."""
    theirs, ours = pair(kind, *sizes, **options)
    theirs.train(training)
    ours.train(training)
    rows = options["num_layers"] * (1 + options["bidirectional"])
    if batch is None:
        shape, state_shape = (steps,), (rows, sizes[1])
    else:
        shape = (batch, steps) if options["batch_first"] else (steps, batch)
        state_shape = (rows, batch, sizes[1])
    x = torch.randn(*shape, sizes[0], **DOUBLE, requires_grad=True)
    state = draw_state(kind, *state_shape) if given_state else None
    with ops.using(backend) if backend else contextlib.nullcontext():
        expected, actual = theirs(x, state), ours(x, state)
    close(actual, expected)
    assert isinstance(actual[1], tuple) == (kind in ("lstm", "projected"))
    seed = torch.randn_like(expected[0])
    wanted = torch.autograd.grad((expected[0] * seed).sum(), [x, *theirs.parameters()])
    close(torch.autograd.grad((actual[0] * seed).sum(), [x, *ours.parameters()]), wanted, atol=1e-11)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", list(PAIRS))
def test_full_layers_take_torchs_kernel_where_it_is_faster(kind, bidirectional, monkeypatch):
    layer = pair(kind, 3, 4, num_layers=2, bidirectional=bidirectional)[1]
    calls = []
    kernels = recurrent_stack.TORCH_KERNELS
    for name, kernel in list(kernels.items()):
        monkeypatch.setitem(
            recurrent_stack.TORCH_KERNELS, name, lambda *a, kernel=kernel: calls.append(1) or kernel(*a)
        )
    long, short = torch.randn(40, 2, 3, **DOUBLE), torch.randn(4, 2, 3, **DOUBLE)
    with torch.no_grad():
        for x, taken in ((long, 1), (short, 0), (long[:, 0], 1)):
            calls.clear()
            actual = layer(x)
            assert len(calls) == taken
            with ops.using("reference"):
                close(actual, layer(x))
        layer(long, lengths=torch.tensor([40, 3]))
        layer(pack_sequence([long[:, 0], long[:3, 1]]))
    assert len(calls) == 1
    layer(short)
    assert len(calls) == 2
    calls.clear()
    prernn.GRU(3, 4, reset="before")(long.float())
    prernn.LSTM(3, 4, hidden="grouped:2")(long.float())
    assert not calls


@settings(max_examples=40)
@given(
    kind=st.sampled_from(list(PAIRS)),
    options=layers,
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    given_state=st.booleans(),
    ordered=st.booleans(),
)
def test_packed_sequences_equal_torch(kind, options, lengths, given_state, ordered):
    theirs, ours = pair(kind, 3, 4, **options)
    lengths = sorted(lengths, reverse=True) if ordered else lengths
    x = pack_sequence([torch.randn(n, 3, **DOUBLE) for n in lengths], enforce_sorted=ordered)
    rows = options["num_layers"] * (1 + options["bidirectional"])
    state = draw_state(kind, rows, len(lengths), 4) if given_state else None
    (expected, their_state), (actual, our_state) = theirs(x, state), ours(x, state)
    close(actual.data, expected.data)
    close(our_state, their_state)
    assert torch.equal(actual.batch_sizes, expected.batch_sizes)
    for ours_indices, theirs_indices in zip(actual[2:], expected[2:], strict=True):
        assert (ours_indices is None) == (theirs_indices is None)
        assert ours_indices is None or torch.equal(ours_indices, theirs_indices)
    close(pad_packed_sequence(actual)[0], pad_packed_sequence(expected)[0])


@given(
    cell=st.sampled_from(list(CELLS)),
    spec=st.sampled_from(SPECS),
    options=layers,
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
)
def test_padded_batch_with_lengths_equals_each_row_alone(cell, spec, options, lengths):
    """Past its length a row puts out zeros and keeps its state, whatever stands in the padding."""
    layer = RecurrentStack(make_cell(cell), 3, 12, hidden=spec, **options, **DOUBLE)
    steps, batch = max([1, *lengths]), len(lengths)
    x = torch.randn(steps, batch, 3, **DOUBLE, requires_grad=True)
    rows = options["num_layers"] * layer.directions
    state = tuple(torch.randn(rows, batch, 12, **DOUBLE) for _ in layer.cell.states)
    arrange = (lambda t: t.transpose(0, 1)) if options["batch_first"] else (lambda t: t)
    out, last = layer(arrange(x), state, lengths=lengths)
    out, last = arrange(out), (last if isinstance(last, tuple) else (last,))
    for row, length in enumerate(lengths):
        own = tuple(tensor[:, row : row + 1] for tensor in state)
        if length:
            alone, own = layer(arrange(x[:length, row : row + 1]), own)
            close(out[:length, row : row + 1], arrange(alone))
        assert not out[length:, row].any()
        close(tuple(tensor[:, row : row + 1] for tensor in last), own if isinstance(own, tuple) else (own,))
    (grad,) = torch.autograd.grad(out.sum() + sum(tensor.sum() for tensor in last), x)
    for row, length in enumerate(lengths):
        assert not grad[length:, row].any()
        assert grad[:length, row].any() or not length


@pytest.mark.parametrize("kind", ["tanh", "lstm", "projected", "gru"])
def test_lengths_equal_torchs_packed_sequence(kind):
    theirs, ours = pair(kind, 3, 4, num_layers=2, bidirectional=True)
    x, lengths = torch.randn(6, 3, 3, **DOUBLE), [2, 6, 3]
    packed, expected_state = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed)
    for given_lengths in (lengths, torch.tensor(lengths), torch.tensor(lengths, dtype=torch.int32)):
        out, state = ours(x, lengths=given_lengths)
        close(out, expected)
        close(state, expected_state)


@pytest.mark.parametrize("kind", list(PAIRS))
def test_dropout_is_between_layers_and_only_in_training(kind):
    theirs, ours = pair(kind, 3, 4, num_layers=3, dropout=0.5)
    x = torch.randn(5, 2, 3, **DOUBLE)
    close(ours.eval()(x), theirs.eval()(x))
    out, state = ours.train()(x)
    assert not torch.equal(out, theirs(x)[0])
    alone = pair(kind, 3, 4)[1]  # the first layer is not touched by dropout
    alone.load_state_dict({k: v for k, v in ours.state_dict().items() if k.endswith("_l0")})
    first = (lambda s: s[0][:1]) if isinstance(state, tuple) else (lambda s: s[:1])
    close(first(state), first(alone(x)[1]))
    theirs, ours = pair(kind, 3, 4, num_layers=2, dropout=1.0)  # all that the second layer sees is dropped
    close(ours.train()(x), theirs.train()(x))
    out, _ = ours.step(x[0])
    close(out, ours(torch.zeros_like(x[:1]))[0][0])


def test_a_dropout_layer_alone_drops_nothing():
    with pytest.warns(UserWarning, match=r"num_layers of at least 2 with dropout=0.9, got 1"):
        layer = prernn.LSTM(3, 4, dropout=0.9, **DOUBLE).train()
    x = torch.randn(5, 2, 3, **DOUBLE)
    close(layer(x), layer.eval()(x))


@pytest.mark.parametrize("kind", list(PAIRS))
def test_names_loading_and_torchs_methods(kind):
    theirs, ours = pair(kind, 3, 4, num_layers=2, bidirectional=True)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    theirs.load_state_dict(ours.state_dict())
    assert ours.batch_first is theirs.batch_first is False
    for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_flatten_parameters_does_no_harm():
    """Code written for torch.nn calls it before forward."""
    prernn.LSTM(3, 4).flatten_parameters()


@pytest.mark.parametrize("cell", list(OURS))
def test_start_is_torchs_with_recurrent_biases_zero(cell):
    layer = OURS[cell](30, 100, num_layers=2, bidirectional=True)
    for name, parameter in layer.named_parameters():
        if name.startswith("bias_hh"):
            assert not parameter.any(), name
        else:
            assert 0.09 < parameter.abs().max() <= 0.1, name
    assert abs(layer.weight_hh_l0.mean()) < 0.01


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("cell", list(CELLS))
def test_a_structured_layer_equals_the_full_one_with_its_matrix(cell, spec):
    options = {"num_layers": 2, "bidirectional": True}
    layer = RecurrentStack(make_cell(cell), 3, 12, hidden=spec, **options, **DOUBLE)
    for name, parameter in layer.named_parameters():
        if name.startswith("bias_hh"):
            torch.nn.init.normal_(parameter)
    dense = RecurrentStack(make_cell(cell), 3, 12, hidden="full", **options, **DOUBLE)
    weights = layer.state_dict()
    for number in range(2):
        for reverse, end in ((False, ""), (True, "_reverse")):
            matrix = layer.hidden_matrix(number, reverse=reverse)
            assert bool((matrix[:, ~layer.structure.mask(12)] == 0).all())
            weights[f"weight_hh_l{number}{end}"] = matrix.flatten(0, 1)
    dense.load_state_dict(weights)
    x = torch.randn(4, 2, 3, **DOUBLE)
    close(layer(x), dense(x))
