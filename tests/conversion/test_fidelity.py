"""The graph of a CNN computes what the CNN does, or the conversion is refused and names the place."""

import operator

import pytest
import torch
from torch import nn

import prernn
from prernn.conversion.graph import tracing
from prernn.conversion.graph.fidelity import check_graph
from prernn.sparsity.normalize import normalized


class Net(nn.Module):
    """Two convolutions, and what a test does between them."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.fc, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm2d(3)
        self.between = between
        self.double()

    def forward(self, x):
        x = self.between(self.norm(self.first(x)))
        return self.out(torch.relu(self.fc(torch.sin(self.second(x)).mean((2, 3)))))


def same(cnn, size=(32, 32)):
    """Whether the network without recurrence, and PreVRNN with no recurrent weights, compute what the CNN does."""
    video = torch.randn(2, 3, 3, *size, dtype=torch.float64)
    expected = torch.stack([cnn.eval()(frame) for frame in video.unbind(1)], dim=1)
    torch.testing.assert_close(prernn.framewise(cnn, image_size=size)(video)[0], expected)
    net = prernn.convert(cnn, "fc", cell="vrnn", image_size=size).eval()
    with torch.no_grad():
        net.recurrent_layers[0].hidden_to_hidden.weight.zero_()
    torch.testing.assert_close(net(video)[0], expected)


def alias_of(operation):
    def between(x):
        y = x
        z = operation(x, 2.0)
        return torch.cos(y) + 2 * x + z

    return between


INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow")


@pytest.mark.parametrize("name", INPLACE)
def test_all_names_of_a_value_see_what_is_done_in_place(name):
    x = torch.full((2,), 2.5)
    assert getattr(operator, name)(x, 2) is x  # so it is with tensors
    same(Net(alias_of(getattr(operator, name))))


def test_steps_in_place_one_after_the_other():
    def between(x):
        y, z = x, torch.tanh(x)
        x += z
        x *= 0.5
        z -= y
        return y * z

    same(Net(between))


@pytest.mark.parametrize(
    "view", [lambda x: x[:, :2], lambda x: x.flatten(1).view_as(x), lambda x: x.transpose(2, 3)[:, :, 1:]]
)
def test_a_view_that_is_read_after_the_value_was_overwritten_is_refused(view):
    def between(x):
        part = view(x)
        x += 1
        return x + part.mean()

    with pytest.raises(NotImplementedError, match="is a part that is read afterwards"):
        prernn.convert(Net(between))


def test_a_view_that_is_read_before_is_none_of_its_business():
    def between(x):
        mean = x[:, :2].mean((1, 2, 3), keepdim=True)
        x += 1
        return x * mean

    same(Net(between))


def with_out(x):
    torch.add(x, 1, out=x)
    return x


def test_what_tracing_cannot_see_is_refused_and_the_place_named():
    with pytest.raises(NotImplementedError, match=r"graph of Net computes something else.*from layer 'second' on"):
        prernn.convert(Net(with_out))
    with pytest.raises(NotImplementedError, match="something else"):
        prernn.inflate(Net(with_out), frames=4)
    with pytest.raises(NotImplementedError, match="something else"):
        prernn.convert_rcn(Net(with_out))
    with pytest.raises(NotImplementedError, match="something else"):
        normalized(Net(with_out))


def test_outputs_that_only_the_module_gives():
    """One of several is not enough to be alike."""
    cnn = Net(torch.sin).eval()
    graph = tracing.trace(cnn)
    two = Net(torch.sin).eval()
    two.load_state_dict(cnn.state_dict())
    two.forward = lambda x: (cnn(x), cnn(x))
    with pytest.raises(NotImplementedError, match="something else"):
        check_graph(graph, two, (3, 32, 32))


class Last(Net):
    """Something goes wrong behind the last layer."""

    def forward(self, x):
        out = super().forward(x)
        torch.mul(out, 2, out=out)
        return out


def test_behind_the_last_layer():
    with torch.no_grad(), pytest.raises(NotImplementedError, match="behind its last layer"):
        prernn.convert(Last(torch.sin))


def test_a_cnn_of_chance_passes_and_no_chance_is_used():
    state = torch.get_rng_state()
    prernn.convert(Net(lambda x: torch.dropout(x, 0.5, True)), "fc")
    torch.manual_seed(0)
    torch.set_rng_state(state)
    prernn.convert(Net(torch.sin), "fc")
    before = torch.get_rng_state()
    cnn = Net(torch.sin)
    after_making = torch.get_rng_state()
    prernn.framewise(cnn)
    assert torch.equal(torch.get_rng_state(), after_making)
    assert not torch.equal(before, after_making)


def test_a_cnn_in_training_is_not_touched():
    cnn = Net(torch.sin).eval()
    cnn.norm.train()
    prernn.convert(cnn, "fc")
    assert int(cnn.norm.num_batches_tracked) == 0
    assert cnn.norm.training
    assert not cnn.training


def test_on_the_meta_device_there_is_nothing_to_compare():
    prernn.convert(Net(with_out).to("meta"), "fc")
