"""One network of each kind that can be exported, small."""

import torch
from torch import nn

import prernn
from prernn.models.networks.deep_speech import deep_speech
from small_cnns import FcNet, PlainNet, ResidualNet, SnippetNet, prepare, shake


def _of(cnn, *layer, **options):
    return shake(prernn.convert(prepare(cnn).float(), *layer, **options)).eval()


def _quantized():
    return prernn.quantize(_of(ResidualNet(), cell="lstm"), 16).eval()


def _stacked():
    inner = prernn.convert(prepare(FcNet()).float(), ["fc6", "fc7"], cell="lstm", hidden="grouped:2")
    return shake(prernn.traditional(inner, cell="gru", hidden_size=7)).eval()


def _flow():
    net = PlainNet()
    net.stem = nn.Conv2d(20, 4, 3, padding=1)
    return _of(net, input="single")


def _words():
    return prernn.traditional(prernn.backbone("words", words=9, size=6), cell="qrnn", hidden_size=[8, 5]).eval()


def _speech():
    cnn = prernn.backbone("spectrogram", features=41, filters=4, causal=True)
    return deep_speech(cnn, hidden_size=8, num_layers=2, hidden="diagonal", lookahead=2, outputs=5).eval()


def _features():
    return prernn.traditional(prernn.backbone("features", features=7), hidden_size=6, outputs=4).eval()


def _rcn_of_snippets():
    net = prernn.convert_rcn(prepare(SnippetNet()).float(), image_size=(4, 8, 8)).eval()
    for layer in net.recurrent_layers:
        nn.init.normal_(layer.hidden_to_hidden.weight, std=0.3)
    return net


KINDS = {
    "conv": lambda: _of(ResidualNet()),
    "rcn": lambda: prernn.convert_rcn(prepare(ResidualNet()).float(), hidden="band:3", mix="sum").eval(),
    "rcn of snippets": _rcn_of_snippets,
    "snippets": lambda: _of(SnippetNet(), "fc6", image_size=(4, 8, 8)),
    "optical flow": _flow,
    "kept activation": lambda: _of(ResidualNet(), keep_activation=True, cell="lstm", hidden="ring"),
    "quantized": _quantized,
    "several layers": _stacked,
    "frame by frame": lambda: prernn.framewise(ResidualNet()).eval(),
    "words": _words,
    "speech": _speech,
    "features": _features,
}
"""What makes each, by its name."""

SMALL = {"conv", "rcn", "optical flow", "kept activation", "quantized", "several layers", "frame by frame"}
"""Those whose frames are pictures: they are exported at 8 x 8 pixels."""


def size_of(name):
    """``image_size`` for an export."""
    return (8, 8) if name in SMALL else None


def some_frames(net, batch, steps, size=None):
    """Random input ``(B, T, C, H, W)`` of a network."""
    shape = (*net.frame_shape[:-2], *size) if size else net.frame_shape
    if net.input_type == torch.int64:
        return torch.randint(9, (batch, steps, *shape))
    return torch.randn(batch, steps, *shape)
