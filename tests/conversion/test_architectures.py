"""Which of some sixty architectures convert and at which layer, and real ones run."""

import functools

import pytest
import torch

import prernn
from architectures import build
from equations import close
from small_cnns import prepare, shake

# --- the report: which architectures convert, and at which layer


CONVERT = {
    "vgg11": ("classifier.3", 4096),
    "vgg16_bn": ("classifier.3", 4096),
    "alexnet": ("classifier.4", 4096),
    "resnet18": ("layer4.1.conv2", 512),
    "resnet50": ("layer4.2.conv3", 2048),
    "resnext50_32x4d": ("layer4.2.conv3", 2048),
    "densenet121": ("features.denseblock4.denselayer16.conv2", 1024),
    "mobilenet_v2": ("features.18.0", 1280),
    "mobilenet_v3_small": ("classifier.0", 1024),
    "efficientnet_b0": ("features.8.0", 1280),
    "squeezenet1_0": ("classifier.1", 1000),
    "squeezenet1_1": ("classifier.1", 1000),
    "googlenet": ("inception5b.branch3.1.conv", 1024),
    "inception_v3": ("Mixed_7c.branch3x3dbl_3b.conv", 2048),
    "shufflenet_v2_x1_0": ("conv5.0", 1024),
    "mnasnet1_0": ("layers.14", 1280),
    "regnet_x_400mf": ("trunk_output.block4.block4-11.f.c.0", 400),
    "regnet_y_400mf": ("trunk_output.block4.block4-5.f.c.0", 440),
    "convnext_tiny": ("features.7.2.block.5", 768),
    "r3d_18": ("layer4.1.conv2.0", 512),
    "mc3_18": ("layer4.1.conv2.0", 512),
    "r2plus1d_18": ("layer4.1.conv2.0.3", 512),
    "s3d": ("features.15.branch2.1.1.0", 1024),
    "timm/tf_efficientnet_lite0": ("conv_head", 1280),
    "timm/mobilenetv2_100": ("conv_head", 1280),
    "timm/mobilenetv3_small_100": ("conv_head", 1024),
    "timm/mobilenetv4_conv_small": ("conv_head", 1280),
    "timm/mnasnet_100": ("conv_head", 1280),
    "timm/lcnet_050": ("conv_head", 1280),
    "timm/ghostnet_100": ("conv_head", 1280),
    "timm/resnet18": ("layer4.1.conv2", 512),
    "timm/seresnet50": ("layer4.2.conv3", 2048),
    "timm/legacy_seresnet18": ("layer4.1.conv2", 512),
    "timm/ecaresnet50d": ("layer4.2.conv3", 2048),
    "timm/res2net50_26w_4s": ("layer4.2.conv3", 2048),
    "timm/resnest14d": ("layer4.0.conv3", 2048),
    "timm/skresnet18": ("layer4.1.conv2.conv", 512),
    "timm/resnetv2_50": ("stages.3.blocks.2.conv3", 2048),
    "timm/regnety_002": ("s4.b7.conv3.conv", 368),
    "timm/xception41": ("blocks.12.stack.conv3.conv_pw", 2048),
    "timm/nfnet_l0": ("final_conv", 2304),
    "timm/dm_nfnet_f0": ("final_conv", 3072),
    "timm/dla34": ("level5.root.conv", 512),
    "timm/dpn68": ("features.conv5_3.c1x1_c.conv", 832),
    "timm/cspdarknet53": ("stages.4.conv_transition.conv", 1024),
    "timm/darknet53": ("stages.4.blocks.3.conv2.conv", 1024),
    "timm/repvgg_a0": ("stages.3.0.conv_kxk.conv", 1280),
    "timm/selecsls42b": ("head.3.0", 1024),
    "timm/vovnet39a": ("stages.3.blocks.1.conv_concat.conv", 1024),
    "timm/rexnet_100": ("features.16.conv", 1280),
    "timm/hgnetv2_b0": ("head.last_conv.0", 2048),
    "timm/gernet_s": ("final_conv.conv", 1920),
    "timm/tresnet_m": ("body.layer4.2.conv3.conv", 2048),
    "timm/convmixer_768_32": ("blocks.31.1", 768),
}
REFUSE = {
    "vit_b_16": "a transformer, which is no CNN; prernn.traditional",  # a class token, no pooling
    "timm/vit_tiny_patch16_224": "a transformer, which is no CNN; prernn.traditional",
    "timm/nf_resnet50": "looked for",  # timm declares its blocks untraceable
    "timm/vgg11": "looked for",  # as it does the fc layers, which are convolutions in one module
}
NOT_ON_META = ("regnet_x_400mf", "regnet_y_400mf")  # torchvision computes with their sizes as tensors
report: dict[str, str] = {}


def outcome(name: str):
    """Layer and hidden size that conversion finds, or what its error says."""
    try:
        net = prernn.convert(build(name, meta=name not in NOT_ON_META), cell="gru", input="single")
    except NotImplementedError as error:
        return str(error)
    (count,) = prernn.recurrent_parameters(net).layers
    return count.name, count.size


@pytest.mark.parametrize("name", [*CONVERT, *REFUSE])
def test_architecture(name):
    found = outcome(name)
    report[name] = found if isinstance(found, str) else f"{found[0]} ({found[1]})"
    if name in CONVERT:
        assert found == CONVERT[name]
    else:
        assert isinstance(found, str)
        assert REFUSE[name] in found


def test_report_of_architectures():
    """Printed with ``pytest -s``; over forty convert."""
    width = max(map(len, report), default=0)
    for name, found in sorted(report.items()):
        print(f"{'converts' if name in CONVERT else 'does not'}  {name:{width}}  {found[:150]}")
    assert len(CONVERT) > 40
    assert not set(CONVERT) & set(REFUSE)


# --- real architectures, at a small size


REAL = {
    # name: frame, activation between layer and pooling
    "resnet18": ((3, 64, 64), "layer4.1.relu"),
    "shufflenet_v2_x0_5": ((3, 64, 64), "conv5.2"),
    "mobilenet_v3_small": ((3, 64, 64), "classifier.1"),
    "squeezenet1_1": ((3, 64, 64), "classifier.2"),
    "regnet_x_400mf": ((3, 64, 64), "trunk_output.block4.block4-11.activation"),
    "densenet121": ((3, 64, 64), None),
    "r3d_18": ((3, 4, 32, 32), "layer4.1.relu"),
    "timm/tf_efficientnet_lite0": ((3, 64, 64), "bn2.act"),
    "timm/repvgg_a0": ((3, 64, 64), "stages.3.0.act"),
}


@functools.cache
def real(name):
    """The architecture in float64 with random weights, and PreGRU-SIH of it with a diagonal W_hh."""
    torch.manual_seed(5)
    shape = REAL[name][0]
    cnn = prepare(build(name, meta=False))
    return cnn, shake(prernn.convert(cnn, input="single", hidden="diagonal", image_size=shape[1:]))


@pytest.mark.parametrize("name", REAL)
@torch.no_grad()
def test_real_architecture_steps_as_it_runs(name):
    cnn, net = real(name)
    video = torch.randn(1, 3, *REAL[name][0], dtype=torch.float64)
    expected, last = net(video)
    state = None
    for time in range(3):
        out, state = net.step(video[:, time], state)
        close(out, expected[:, time], atol=1e-11, rtol=1e-11)
    close(state, last, atol=1e-11, rtol=1e-11)
    layer = net.recurrent_layers[0].input_to_hidden
    if layer.pool_first:
        layer.pool_first = False
        close(net(video)[0], expected, atol=1e-11, rtol=1e-11)
        layer.pool_first = True
    close(
        prernn.framewise(cnn, image_size=video.shape[3:]).step(video[:, 0])[0], cnn(video[:, 0]), atol=1e-11, rtol=1e-11
    )


@pytest.mark.parametrize("name", [name for name, (_, act) in REAL.items() if act])
@torch.no_grad()
def test_real_architecture_feeds_what_the_cnn_feeds_its_activation(name):
    """Eqs. 6 and 7: u is what the CNN hands to the activation that moves, averaged over places."""
    cnn, net = real(name)
    frame = torch.randn(2, *REAL[name][0], dtype=torch.float64)
    seen = {}
    cnn.get_submodule(REAL[name][1]).register_forward_pre_hook(lambda m, args: seen.update(cnn=args[0].clone()))
    inner = net.recurrent_layers[0].input_to_hidden
    inner.register_forward_hook(lambda m, args, u: seen.update(u=u))
    cnn(frame)
    net.step(frame)
    value = seen["cnn"]
    close(seen["u"][:, 0], value.mean(tuple(range(2, value.ndim))) if value.ndim > 2 else value, atol=1e-11, rtol=1e-11)


def test_image_size_helps_where_the_usual_sizes_do_not_fit():
    net = prernn.convert(build("timm/halonet26t"), image_size=(256, 256), input="single")
    assert prernn.recurrent_parameters(net).layers[0].name == "stages.3.1.conv3_1x1.conv"
