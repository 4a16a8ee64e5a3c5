"""Recurrent layers stacked on a CNN whose ``W_ih`` has a structure: recipe, checkpoint, counts, rates, training."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import prernn
from equations import close
from prernn.conversion.accounting import frame_cost, total_weights
from prernn.layers.input_to_hidden import StructuredLinear
from prernn.models.from_config import NetworkSpec
from prernn.training.learning.decay import spared
from prernn.training.learning.rates import rate_factors

SPECS = ["grouped:4", "band:5", "band:20%", "paths:3", "sparse:0.1", "diagonal"]


def stacked(inputs, hidden_size=16, **options):
    cnn = prernn.backbone("small_vgg", width=2, units=16, size=16).eval()
    return prernn.traditional(cnn, cell="lstm", hidden_size=hidden_size, inputs=inputs, outputs=3, **options)


def projection(net) -> StructuredLinear:
    return net.recurrent_layers[0].input_to_hidden.linear


@pytest.mark.parametrize("spec", SPECS)
def test_a_stacked_layer_computes_with_the_matrix(spec):
    net, video = stacked(spec), torch.randn(2, 4, 3, 16, 16)
    dense = stacked("full")
    state = net.state_dict()
    name = next(name for name in state if name.endswith("linear.weight"))
    dense.load_state_dict({**state, name: projection(net).matrix().flatten(0, 1)})
    close(net(video)[0], dense(video)[0], atol=1e-5)
    states, outputs = net.init_state(2), []
    for frame in video.unbind(1):
        out, states = net.step(frame, states)
        outputs.append(out)
    close(torch.stack(outputs, 1), net(video)[0], atol=1e-5)


@pytest.mark.parametrize("spec", ["grouped:4", "band:20%", "paths:3", "sparse:0.1"])
def test_checkpoints_restore_it(spec, tmp_path):
    net, video = stacked(spec, [8, 16], num_layers=2), torch.randn(1, 3, 3, 16, 16)
    assert net.recipe.steps[-1].arguments["inputs"] == spec
    net.recipe.backbone, net.recipe.backbone_options = "small_vgg", {"width": 2, "units": 16, "size": 16}
    prernn.save(net, tmp_path / "net.safetensors")
    again = prernn.load(tmp_path / "net.safetensors")
    assert projection(again).structure == projection(net).structure
    close(again.eval()(video)[0], net(video)[0])


def test_a_config_says_it():
    options = {"backbone": "small_vgg", "backbone_options": {"width": 2, "units": 16, "size": 16}}
    net = NetworkSpec(**options, method="traditional", inputs="grouped:4").build(3)
    assert str(projection(net).structure) == "grouped:4"
    assert "inputs" not in NetworkSpec(**options, method="traditional").build(3).recipe.steps[0].arguments
    on_top = NetworkSpec(**options, inputs="paths:4", layers_on_top=1, layer="fc6").build(3)
    assert str(on_top.recurrent_layers[1].input_to_hidden.linear.structure) == "paths:4"
    with pytest.raises(ValueError, match="recipe inputs: expected method 'traditional'"):
        NetworkSpec(**options, inputs="grouped:4")
    with pytest.raises(ValueError, match=r"inputs='grouped:3': both sizes.*I=16 and D=16"):
        NetworkSpec(**options, method="traditional", inputs="grouped:3").build(3)


@pytest.mark.parametrize("spec", SPECS)
def test_weights_and_multiply_adds_are_counted(spec):
    net, dense = stacked(spec), stacked("full")
    count, full = 4 * projection(net).structure.weight_count(16, 16), 4 * 16 * 16
    assert prernn.recurrent_parameters(net).input_to_hidden == count == int((projection(net).matrix() != 0).sum())
    assert total_weights(dense) - total_weights(net) == full - count
    assert frame_cost(dense).multiply_adds - frame_cost(net).multiply_adds == full - count
    on_meta = stacked(spec).to("meta")
    assert frame_cost(on_meta).multiply_adds == frame_cost(net).multiply_adds
    with FlopCounterMode(display=False):  # and the layer computes again
        assert net(torch.zeros(1, 1, 3, 16, 16))[0].shape == (1, 1, 3)


def test_sparse_inputs_learn_faster_by_their_fan_in():
    net = stacked("paths:4", hidden="diagonal")
    layer = net.recurrent_layers[0]
    assert rate_factors(net) == {layer.hidden_to_hidden.weight: 4.0, projection(net).weight: 2.0}
    assert rate_factors(net, 1.0)[projection(net).weight] == 4.0
    assert projection(net).weight not in rate_factors(stacked("grouped:1"))
    assert projection(net).weight in set(net.new_parameters())
    each = stacked("sparse:0.1")  # vectors that are weights, and so decay
    assert projection(each).weight not in spared(each)
    assert projection(each).bias in spared(each)


@pytest.mark.parametrize("spec", ["grouped:4", "band:5", "paths:3", "sparse:0.3"])
def test_quantized_and_of_few_bits(spec):
    net, video = stacked(spec), torch.randn(1, 3, 3, 16, 16)
    small = prernn.quantize(net, 8)
    names = {row.name: row.weights for row in prernn.quantization_report(small)}
    name = next(name for name in names if name.endswith("linear.weight"))
    assert names[name] == projection(net).weight_count()
    wide = prernn.traditional(prernn.backbone("features", features=256), hidden_size=256, inputs=spec, outputs=3)
    few, x = prernn.low_precision(wide), torch.randn(1, 5, 256)
    torch.testing.assert_close(few(x)[0], wide.eval()(x)[0], rtol=0.1, atol=0.02)
    sampled = prernn.online_sparsity(net, linear=0.9)
    assert sampled(video)[0].shape == (1, 3, 3)


def test_stacked_inputs_train():
    net, video = stacked("sparse:0.3"), torch.randn(2, 4, 3, 16, 16)
    before = projection(net).weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(video)[0].square().sum().backward()
    optimizer.step()
    assert bool((projection(net).weight != before).any())
