"""What code written for torch.nn.RNN, LSTM and GRU finds in the drop-ins: signatures, names, representation, errors."""

import copy
import doctest
import inspect
import pickle
import typing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves

import prernn
from equations import close
from prernn import ops
from prernn.layers import rnn
from prernn.layers.hidden_to_hidden import matrix_places
from strategies import SPECS, compositions

DOUBLE = {"dtype": torch.float64}
TORCHS = {prernn.VRNN: nn.RNN, prernn.LSTM: nn.LSTM, prernn.GRU: nn.GRU}
OWN_WORDS = {prernn.VRNN: {"activation"}, prernn.LSTM: set(), prernn.GRU: {"reset"}}
both = pytest.mark.parametrize(("ours", "theirs"), TORCHS.items(), ids=lambda each: each.__module__.split(".")[0])


def torchs_parameters(theirs):
    """Parameters of torch.nn's constructor, which is written as an overload of ``*args, **kwargs``."""
    signature = inspect.signature(typing.get_overloads(theirs.__init__)[0])
    return {name: parameter for name, parameter in signature.parameters.items() if name != "self"}


# --- the signature


@both
def test_the_constructor_takes_torchs_arguments_in_their_order(ours, theirs):
    own, wanted = inspect.signature(ours).parameters, torchs_parameters(theirs)
    assert list(own)[: len(wanted)] == list(wanted)
    for name, parameter in wanted.items():
        assert own[name].kind is parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        # where two names stand for one argument neither has a default of its own
        assert own[name].default == (None if name == "nonlinearity" else parameter.default), name
    further = {name: parameter.kind for name, parameter in own.items() if name not in wanted}
    assert set(further) == {"hidden", "inputs"} | OWN_WORDS[ours]
    assert set(further.values()) == {inspect.Parameter.KEYWORD_ONLY}


@both
def test_forward_takes_torchs_arguments(ours, theirs):
    own, wanted = inspect.signature(ours.forward).parameters, inspect.signature(theirs.forward).parameters
    assert set(wanted) <= set(own)
    assert list(own)[:2] == list(wanted)[:2]


@both
def test_public_attributes_and_methods_of_torchs_layers_are_there(ours, theirs):
    options = {"nonlinearity": "relu"} if theirs is nn.RNN else {}
    layer, wanted = ours(3, 4, 2, **options), theirs(3, 4, 2, **options)
    internal = {"mode", "check_input", "check_hidden_size", "check_forward_args", "permute_hidden"}
    internal |= {"get_expected_hidden_size", "get_expected_cell_size"}
    names = {name for name in dir(wanted) if not name.startswith("_")} - internal
    assert names <= set(dir(layer)), names - set(dir(layer))
    for name in names - {"training"}:
        value = getattr(wanted, name)
        if isinstance(value, bool | int | float | str):
            assert getattr(layer, name) == value, name


@both
@given(
    num_layers=st.integers(2, 3),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    dropout=st.sampled_from([0, 0.0, 0.5, 1]),
    relu=st.booleans(),
    proj_size=st.integers(0, 3),
)
def test_all_arguments_by_position(ours, theirs, num_layers, flags, dropout, relu, proj_size):
    bias, batch_first, bidirectional = flags
    arguments = [3, 4, num_layers, bias, batch_first, dropout, bidirectional]
    arguments[3:3] = [("tanh", "relu")[relu]] if theirs is nn.RNN else []
    arguments += [proj_size] if theirs is nn.LSTM else []
    place = [torch.device("cpu"), torch.float64] if theirs is nn.LSTM else []  # torch's others mistake it for proj_size
    wanted, layer = theirs(*arguments, *place).double(), ours(*arguments, *(place or ["cpu", torch.float64]))
    layer.load_state_dict(wanted.state_dict())
    x = torch.randn(2, 5, 3, **DOUBLE)
    close(layer.eval()(x), wanted.eval()(x))
    assert [[p.shape for p in row] for row in layer.all_weights] == [[p.shape for p in r] for r in wanted.all_weights]
    assert repr(layer).startswith(repr(wanted).removesuffix(")").replace("RNN(", "VRNN("))


def test_the_representation_names_what_is_not_torchs_default():
    assert repr(prernn.VRNN(3, 4)) == "VRNN(3, 4, hidden='full', activation='tanh')"
    assert repr(prernn.GRU(3, 4, hidden="band:3", reset="before")) == "GRU(3, 4, hidden='band:3', reset='before')"
    layer = prernn.LSTM(3, 4, 2, False, True, 0.5, True, 2)
    options = "proj_size=2, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True"
    assert repr(layer) == f"LSTM(3, 4, {options}, hidden='full')"
    assert repr(eval(repr(layer), vars(prernn))) == repr(layer)


@both
def test_all_weights_are_the_parameters_themselves(ours, theirs):
    layer = ours(3, 4, 2, bidirectional=True, hidden="band:3")
    flat = [id(parameter) for row in layer.all_weights for parameter in row]
    assert flat == [id(parameter) for parameter in layer.parameters()]
    assert len(layer.all_weights) == 4


@both
def test_hx_is_another_name_of_the_state(ours, theirs):
    layer, wanted, x = ours(3, 4, **DOUBLE), theirs(3, 4, **DOUBLE), torch.randn(5, 2, 3, **DOUBLE)
    layer.load_state_dict(wanted.state_dict())
    h = torch.randn(1, 2, 4, **DOUBLE)
    state = (h, h.flip(0) * 2) if theirs is nn.LSTM else h
    expected = wanted(input=x, hx=state)
    close(layer(input=x, hx=state), expected)
    close(layer(x, state=state), expected)
    close(layer(x, hx=None), wanted(x, hx=None))
    with pytest.raises(ValueError, match=r"state or hx.*both"):
        layer(x, state, hx=state)


def test_the_activation_under_its_two_names():
    for options in ({"nonlinearity": "relu"}, {"activation": "relu"}, {"nonlinearity": "relu", "activation": "relu"}):
        layer = prernn.VRNN(3, 4, **options)
        assert layer.activation == layer.nonlinearity == "relu"
    assert prernn.VRNN(3, 4).nonlinearity == "tanh"
    for options in ({"nonlinearity": "tanh", "activation": "relu"}, {"nonlinearity": "relu", "activation": "tanh"}):
        with pytest.raises(ValueError, match=r"two names, got nonlinearity='(tanh|relu)' and activation="):
            prernn.VRNN(3, 4, **options)
    with pytest.raises(ValueError, match=r"tanh, relu, got True"):
        prernn.VRNN(3, 4, 1, True)
    with pytest.raises(ValueError, match=r"tanh, relu, got ''"):
        prernn.VRNN(3, 4, nonlinearity="")


@both
def test_an_argument_in_the_wrong_place_is_an_error(ours, theirs):
    for name, value in (("bias", "relu"), ("bias", 0.5), ("batch_first", 1)):
        with pytest.raises(ValueError, match=f"{name} to be True or False, got {value!r}"):
            ours(3, 4, **{name: value})


@both
def test_copies_pickles_and_other_places(ours, theirs):
    layer, x = ours(3, 4, 2, hidden="band:3"), torch.randn(5, 2, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(other(x), layer(x))
    assert ours(3, 4, device="meta", dtype=torch.bfloat16).weight_hh_l0.is_meta
    assert ours(3, 4, dtype=torch.bfloat16).weight_ih_l0.dtype == torch.bfloat16


# --- sequences without a step or without a row, inputs of another type


@both
def test_a_sequence_of_no_steps_is_an_error_as_in_torch(ours, theirs):
    for shape in ((0, 2, 3), (0, 3)):
        with pytest.raises(RuntimeError, match="larger than 0"):
            theirs(3, 4)(torch.randn(shape))
        for hidden in ("full", "diagonal", "sparse:0.3"):
            with pytest.raises(ValueError, match=r"at least one step, got none.* the state does not change"):
                ours(3, 4, hidden=hidden)(torch.randn(shape))


@both
def test_a_batch_of_no_rows_is_as_in_torch(ours, theirs):
    x = torch.randn(5, 0, 3, **DOUBLE)
    close(ours(3, 4, 2, bidirectional=True, **DOUBLE)(x), theirs(3, 4, 2, bidirectional=True, **DOUBLE)(x))
    assert ours(3, 4, hidden="band:3")(x.float())[0].shape == (5, 0, 4)


@both
def test_an_input_of_another_type_is_an_error_but_for_autocast(ours, theirs):
    x = torch.randn(5, 2, 3, **DOUBLE)
    with pytest.raises((ValueError, RuntimeError)):
        theirs(3, 4)(x)
    for hidden in ("full", "diagonal"):
        layer = ours(3, 4, hidden=hidden)
        for run in (lambda: layer(x), lambda: layer.step(x[0]), lambda: layer(nn.utils.rnn.pack_sequence([x[:, 0]]))):  # noqa: B023
            with pytest.raises(ValueError, match=r"input of torch.float32.*got torch.float64"):
                run()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x.bfloat16())[0].shape == (5, 2, 4)


@both
@pytest.mark.parametrize("hidden", ["full", "band:3"])
def test_under_autocast_the_type_does_not_depend_on_the_length(ours, theirs, hidden):
    layer = ours(3, 4, hidden=hidden)
    for steps in (1, 5, 40):  # torch's kernels from some length on
        with torch.autocast("cpu", torch.bfloat16):
            out, state = layer(torch.randn(steps, 2, 3))
        assert {each.dtype for each in (out, *tree_leaves(state))} == {torch.float32}


def test_a_packed_sequence_of_other_features_is_an_error():
    packed = nn.utils.rnn.pack_sequence([torch.randn(5, 2)])
    with pytest.raises(ValueError, match=r"expected input \(T, B, 3\), got shape \(5, 1, 2\)"):
        prernn.LSTM(3, 4)(packed)
    with pytest.raises(ValueError, match=r"expected input \(B, T, 3\), got shape \(5, 1, 2\)"):
        prernn.LSTM(3, 4, batch_first=True)(torch.randn(5, 1, 2))


# --- projections


@given(
    num_layers=st.integers(1, 3),
    proj_size=st.integers(1, 3),
    bias=st.booleans(),
    splits=st.integers(1, 5).flatmap(compositions),
)
def test_projected_steps_and_chunks_equal_the_sequence(num_layers, proj_size, bias, splits):
    layer = prernn.LSTM(3, 4, num_layers, bias, proj_size=proj_size, **DOUBLE)
    x = torch.randn(sum(splits), 2, 3, **DOUBLE)
    expected, last = layer(x)
    assert expected.shape == (len(x), 2, proj_size)
    assert [t.shape for t in last] == [(num_layers, 2, proj_size), (num_layers, 2, 4)]
    for pieces, run in ((x.split(splits), layer), (x.unbind(0), layer.step)):
        state, outputs = None, []
        for piece in pieces:
            out, state = run(piece, state)
            outputs.append(out.view(-1, 2, proj_size))
        close(torch.cat(outputs), expected)
        close(state, last)


def test_projection_written_out():
    """h = W_hr (o * tanh(c)), with the gates reading the projected h."""
    layer = prernn.LSTM(3, 4, proj_size=2, **DOUBLE)
    nn.init.normal_(layer.bias_hh_l0)
    assert layer.hidden_matrix().shape == (4, 4, 2)
    x, h, c = torch.randn(6, 3, **DOUBLE), torch.randn(2, **DOUBLE), torch.randn(4, **DOUBLE)
    out, (last_h, last_c) = layer(x, (h.unsqueeze(0), c.unsqueeze(0)))
    for x_t, out_t in zip(x, out, strict=True):
        gates = layer.weight_ih_l0 @ x_t + layer.bias_ih_l0 + layer.weight_hh_l0 @ h + layer.bias_hh_l0
        i, f, g, o = gates.view(4, 4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = layer.weight_hr_l0 @ (o.sigmoid() * c.tanh())
        close(out_t, h)
    close((last_h[0], last_c[0]), (h, c))


def test_projection_on_every_backend_and_with_gradients():
    layer, x = prernn.LSTM(3, 4, 2, proj_size=2, bidirectional=True, **DOUBLE), torch.randn(40, 2, 3, **DOUBLE)
    results = []
    for backend in (None, "reference"):
        with ops.using(backend) if backend else torch.enable_grad():
            out, _ = layer(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(layer.parameters()))])
    close(results[0], results[1], atol=1e-11)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec != "full"])
def test_projection_with_another_structure_says_what_to_use(spec):
    with pytest.raises(
        NotImplementedError, match=rf"expected hidden='full'.*got hidden='{spec}'.*use hidden='full', or"
    ):
        prernn.LSTM(3, 12, proj_size=2, hidden=spec)


def test_projection_out_of_range_is_an_error_as_in_torch():
    for size in (-1, 4, 5):
        with pytest.raises(ValueError, match="proj_size"):
            nn.LSTM(3, 4, proj_size=size)
        with pytest.raises(ValueError, match=rf"proj_size: .* of at (least 0|most 3), got {size}"):
            prernn.LSTM(3, 4, proj_size=size)
    layer = prernn.LSTM(3, 4, proj_size=2)
    with pytest.raises(ValueError, match=r"\(1, 5, 2\), \(1, 5, 4\)\], got \[\(1, 5, 4\), \(1, 5, 4\)\]"):
        layer(torch.randn(6, 5, 3), (torch.zeros(1, 5, 4), torch.zeros(1, 5, 4)))


def test_places_of_projected_weights_name_the_neurons_that_they_feed():
    layer = prernn.LSTM(3, 4, proj_size=2)
    places = matrix_places(layer.recurrent_weights("_l0"))
    assert torch.equal(places // 4, torch.arange(16).view(4, 4, 1).expand(4, 4, 2))
    assert torch.equal(places % 4, torch.arange(2).expand(4, 4, 2))


# --- examples


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(rnn).failed == 0
    assert {test.name.rpartition(".")[2] for test in doctest.DocTestFinder().find(rnn) if test.examples} >= {
        each.__name__ for each in TORCHS
    }
