"""The ending +self: every neuron joined to itself."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prernn
from equations import close
from prernn.layers.hidden_to_hidden import HiddenToHidden
from prernn.layers.structures.irregular import SelfConnected
from prernn.layers.structures.parse import hidden_structure, self_connected
from prernn.ops import compressed_rows
from small_cnns import FcNet, film, prepare

OWN = ["sparse:0.1+self", "paths:3+self", "ring+self", "sparse:1+self", "paths:1+self", "sparse:0.001+self"]


def test_the_ending_self_connects_what_might_lack_it():
    for base in ("sparse:0.1", "paths:3", "ring"):
        structure = hidden_structure(f" {base}+self ")
        assert structure == SelfConnected(hidden_structure(base)) == self_connected(hidden_structure(base))
        assert str(structure) == f"{base}+self"
        assert hidden_structure(str(structure)) == structure != hidden_structure(base)
        assert self_connected(structure) is structure
    for spec in ("full", "diagonal", "band:3", "band:5%", "grouped:2"):
        structure = hidden_structure(spec)
        assert self_connected(structure) is structure
        with pytest.raises(ValueError, match=r"\+self.*already"):
            hidden_structure(f"{spec}+self")


@pytest.mark.parametrize(
    "spec",
    ["+self", "sparse+self", "sparse:0+self", "paths:0+self", "paths:3+self+self", "paths:3 + self", "banana+self"],
)
def test_a_bad_specification_of_self_connections_is_an_error_that_names_it(spec):
    with pytest.raises(ValueError) as caught:
        hidden_structure(spec)
    assert f"hidden={spec!r}" in str(caught.value)


def test_more_paths_than_neurons_are_an_error_with_self_connections_too():
    with pytest.raises(ValueError, match="D=8"):
        HiddenToHidden(8, 1, "paths:9+self")


@given(
    size=st.integers(1, 40),
    paths=st.integers(1, 40),
    density=st.floats(0.001, 1),
    word=st.sampled_from(["sparse", "paths"]),
)
def test_self_connections_are_those_of_the_base_and_the_diagonal_each_once(size, paths, density, word):
    base = hidden_structure(f"paths:{min(paths, size)}" if word == "paths" else f"sparse:{density!r}")
    structure = self_connected(base)
    mask = base.mask(size) | torch.eye(size, dtype=torch.bool)
    assert torch.equal(structure.mask(size), mask)
    module = HiddenToHidden(size, 2, structure, dtype=torch.float64)
    count = int(mask.sum())
    assert module.weight.shape == (2, count)
    assert module.weight_count() == 2 * structure.weight_count(size) == 2 * count
    torch.nn.init.uniform_(module.weight, 1, 2)
    matrix = module.matrix()
    assert torch.equal(matrix != 0, mask.expand(2, -1, -1))
    assert torch.equal(matrix[:, mask], module.weight)  # by receiver, then sender


@pytest.mark.parametrize("gates", [1, 3])
@pytest.mark.parametrize(
    "spec", ["full", "diagonal", "band:1", "band:7", "band:50%", "grouped:4", "sparse:1", "paths:12", *OWN]
)
def test_the_identity_lies_in_a_structure_with_self_connections(spec, gates):
    size = 12
    module = HiddenToHidden(size, gates, spec, dtype=torch.float64)
    flag = module.weight.requires_grad
    module.identity_()
    assert torch.equal(module.matrix(), torch.eye(size, dtype=torch.float64).expand(gates, -1, -1))
    h = torch.randn(5, size, dtype=torch.float64)
    assert torch.equal(module(h), h.unsqueeze(1).expand(-1, gates, -1))
    assert module.weight.requires_grad is flag is True
    assert module.weight.grad is None
    assert module.weight.is_leaf
    HiddenToHidden(size, gates, spec, device="meta").identity_()  # shapes alone


@pytest.mark.parametrize("spec", ["sparse:0.1", "sparse:0.9", "paths:1", "paths:5"])
def test_the_identity_does_not_lie_in_a_structure_where_a_neuron_lacks_itself(spec):
    module = HiddenToHidden(12, 2, spec, dtype=torch.float64)
    assert not module.structure.mask(12).diagonal().all()
    before = module.weight.detach().clone()
    with pytest.raises(NotImplementedError, match=spec):
        module.identity_()
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("spec", [*OWN, "sparse:0.5+self"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_product_with_self_connections_and_its_gradients_are_those_of_the_matrix(spec, dtype, atol):
    size, gates = 48, 2
    module = HiddenToHidden(size, gates, spec, dtype=dtype)
    h = torch.randn(7, size, dtype=dtype, requires_grad=True)
    seed = torch.randn(7, gates, size, dtype=dtype)
    found = module(h)
    expected = torch.einsum("gij,nj->ngi", module.matrix(), h)
    close(found, expected, atol=atol)
    leaves = [module.weight, h]
    close(*(torch.autograd.grad((out * seed).sum(), leaves) for out in (found, expected)), atol=atol * 10)


def test_few_self_connected_weights_run_as_compressed_rows(monkeypatch):
    """In float32 on the CPU, where there are kernels; the test above sees that they are right."""
    used, product = [], compressed_rows.product
    monkeypatch.setattr(
        compressed_rows, "product", lambda h, weight, *kind: used.append(kind) or product(h, weight, *kind)
    )
    h = torch.randn(3, 48)
    for spec in ("sparse:0.1+self", "paths:3+self", "sparse:0.5+self"):
        HiddenToHidden(48, 1, spec)(h)
    native = compressed_rows.usable(torch.zeros(1, 4))
    assert used == ([("sparse+self", 0.1), ("paths+self", 3)] if native else [])


@dataclass(frozen=True)
class Star:
    """A structure of one's own, without self connections: every neuron hears the first, and that one the second."""

    def __str__(self):
        return "star"

    def check(self, size):
        assert size > 1

    def mask(self, size):
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[:, 0] = True
        mask[0, :2] = torch.tensor([False, True])
        return mask

    def weight_count(self, size):
        return size

    def fan_in(self, size):
        return 1

    def weight_shape(self, size):
        return (size,)

    def index(self, size):
        return (torch.arange(size) == 0).long()  # whom each hears

    def product(self, weight, index, size):
        return lambda h: h[:, index].unsqueeze(1) * weight

    def matrix(self, weight, index, size):
        return torch.nn.functional.one_hot(index, size) * weight.unsqueeze(2)

    def band(self, weight):
        return None


@pytest.mark.parametrize("hidden", ["ring", Star()], ids=str)
def test_a_structure_without_self_connections_gets_them_for_the_identity(hidden):
    cnn, video = prepare(FcNet()), film(steps=1).expand(-1, 3, -1, -1, -1)
    net = prernn.convert_rcn(cnn, hidden=hidden, image_size=(8, 8))
    assert str(net.recurrent_layers[0].hidden_to_hidden.structure) == f"{hidden}+self"
    close(net(video)[0][:, 2], cnn(video[:, 0]))
    net(video)[0].sum().backward()
    assert all(layer.hidden_to_hidden.weight.grad.any() for layer in net.recurrent_layers)
    own = prernn.convert_rcn(cnn, hidden=hidden, init="random", image_size=(8, 8)).recurrent_layers[0].hidden_to_hidden
    assert str(own.structure) == str(hidden)
    with pytest.raises(NotImplementedError, match=f"contains the identity, got '{hidden}'"):
        own.identity_()
