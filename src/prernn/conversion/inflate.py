"""A 2-D CNN as a 3-D one: convolutions get a kernel in time, initialized so that outputs on a still video don't change.

This is the network that RCN is compared with: I3D on the same 2-D network (Singh and Cuzzolin's supplement, 1.1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from prernn.conversion.graph import tracing
from prernn.conversion.graph.ending import final_value, find_output_layer
from prernn.conversion.graph.nodes import inputs_of, is_vector, module_calls, name_of, submodule_of, value_shape
from prernn.conversion.graph.same_padding import same_sides
from prernn.conversion.graph.traced import traced
from prernn.layers.arguments import whole
from prernn.layers.computed_weights import settle

STARTS = ("centre", "mean", "random")


class InflatedConv2d(nn.Conv3d):
    """A 2-D convolution with a kernel of ``time`` frames; the first and last frame are repeated, so that none is lost.

    It runs over frames ``(B*T, C, H, W)``, in which those of a clip are adjacent, like the layers around it.

    Args:
        conv: the 2-D convolution.
        time: frames of the kernel, odd.
        start: "centre" puts the 2-D weights at the middle frame and 0 elsewhere, so that outputs are those of the 2-D
            CNN frame by frame; "mean" spreads them evenly over all frames (I3D), which is the same on a still video;
            "random" draws new weights by He's normal initialization, as `convert_rcn` does.
    """

    def __init__(self, conv: nn.Conv2d, time: int, start: str):
        (height, width), (down, right) = conv.kernel_size, conv.stride
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (time, height, width),
            (1, down, right),
            dilation=(1, conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        # timm's Conv2dSame has TensorFlow's padding, which depends on the size of the map
        self.same = conv.padding == "same" or type(conv).__name__ == "Conv2dSame"
        self.spatial = (0, 0) if isinstance(conv.padding, str) else conv.padding
        weight = conv.weight.detach().unsqueeze(2)  # (O, I, 1, kH, kW)
        with torch.no_grad():
            if start == "mean":
                self.weight.copy_((weight / time).expand_as(self.weight))
            elif start == "random":
                nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
            else:
                self.weight.zero_()
                self.weight[:, :, time // 2] = weight[:, :, 0]
            if self.bias is not None and conv.bias is not None:
                self.bias.copy_(torch.zeros_like(conv.bias) if start == "random" else conv.bias)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(conv.get_parameter(name).requires_grad)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]  # it is never called as a Conv3d
        """Maps clips of ``frames`` frames, ``(B*T, C, H, W)``, to ``(B*T, O, H', W')``."""
        x = x.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, T, H, W)
        reach = self.kernel_size[0] // 2
        x = F.pad(x, (*self._sides(*x.shape[3:]), 0, 0))
        ends = (x[:, :, :1].expand(-1, -1, reach, -1, -1), x[:, :, -1:].expand(-1, -1, reach, -1, -1))
        x = torch.cat([ends[0], x, ends[1]], dim=2)  # (B, C, T + time - 1, H, W)
        y = super().forward(x)  # (B, O, T, H', W')
        return y.transpose(1, 2).flatten(0, 1)

    def _sides(self, height: int, width: int) -> tuple[int, ...]:
        """Padding to the left and right of a map, above and below it."""
        if not self.same:
            above, left = self.spatial
            return left, left, above, above
        return tuple(same_sides((height, width), self.kernel_size[1:], self.stride[1:], self.dilation[1:]))


class ClipMean(nn.Module):
    """Mean over the frames of a clip: ``(B*T, D...)`` to ``(B, D...)``."""

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """``x`` has the ``frames`` frames of each clip next to each other."""
        mean: Tensor = x.unflatten(0, (-1, frames)).mean(1)
        return mean


class InflatedCNN(nn.Module):
    """The result of `inflate`: maps clips ``(B, C, T, H, W)`` to outputs ``(B, K)``.

    Attributes:
        cnn: the graph over frames ``(B*T, C, H, W)``, with the layers of the 2-D network under their own names.
        frame_size: ``(T, H, W)`` of a usual clip.
    """

    def __init__(self, cnn: fx.GraphModule, frame_size: tuple[int, int, int]):
        super().__init__()
        self.cnn, self.frame_size = cnn, frame_size

    def forward(self, clip: Tensor) -> Tensor:
        """Accepts clips of any length."""
        out: Tensor = self.cnn(clip.transpose(1, 2).flatten(0, 1), clip.shape[2])
        return out


def inflate(
    cnn: nn.Module,
    *,
    frames: int = 16,
    time: int = 3,
    init: str = "centre",
    image_size: tuple[int, int] | None = None,
) -> InflatedCNN:
    """The 3-D network that a 2-D CNN inflates to: convolutions larger than 1x1 get a kernel of ``time`` frames.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.framewise(prernn.inflate(cnn, frames=4), outputs=3, image_size=(4, 16, 16))
        >>> net.frame_shape  # it takes clips
        (3, 4, 16, 16)

    Weights, normalization and everything else are kept; the vector that the output layer reads is averaged over the
    clip. The temporal resolution is kept throughout. Just after inflation, a still video gives the CNN's output for its
    picture, except with ``init="random"``. ``prernn.framewise(prernn.inflate(cnn))`` is the same as a network over
    snippets.

    Args:
        cnn: any 2-D CNN that torch.fx can trace; it is copied.
        frames: frames of a usual clip; the network accepts any number.
        time: frames of the kernels, odd.
        init: "centre", "mean" or "random", see `InflatedConv2d`.
        image_size: ``(H, W)``, needed only if no usual size fits the CNN.

    Raises:
        ValueError: an unknown ``init``, an even ``time``, numbers that are not integers of at least 1.
        NotImplementedError: a CNN that can't be traced or has no output layer on a vector, or a convolution that
            computes its own weights or padding.
    """
    if init not in STARTS:
        raise ValueError(f"expected init to be one of {', '.join(STARTS)}, got {init!r}")
    time, frames = whole("time", time), whole("frames", frames)
    if time % 2 == 0:
        raise ValueError(f"time: expected an odd number of frames, got {time}")
    module, shape = traced(cnn, image_size)
    tracing.make_output_linear(module)
    inputs, *others = inputs_of(module.graph)
    for node in others:  # arguments that were fixed at their defaults
        module.graph.erase_node(node)
    with module.graph.inserting_after(inputs):
        length = module.graph.placeholder("frames")
    for node in module_calls(module.graph):
        if isinstance(submodule_of(module, node), _ConvNd):
            _inflate_layer(module, node, length, time, init)
    _average_over_time(module, length)
    module.graph.lint()
    module.recompile()
    height, width = shape[-2:]
    return InflatedCNN(module, (frames, height, width)).train(cnn.training)


def _inflate_layer(module: fx.GraphModule, node: fx.Node, length: fx.Node, time: int, init: str) -> None:
    name = name_of(node)
    conv = module.get_submodule(name)
    if isinstance(conv, InflatedConv2d):  # a layer that is used several times
        node.args = (*node.all_input_nodes, length)
        return
    if not isinstance(conv, nn.Conv2d):
        raise NotImplementedError(f"expected 2-D convolutions to inflate, got {type(conv).__name__} {name!r}")
    if max(conv.kernel_size) == 1:
        return
    settle(conv)  # a computed weight has no dimension for time
    known = type(conv).forward is nn.Conv2d.forward or type(conv).__name__ == "Conv2dSame"
    if not known or conv.padding_mode != "zeros" or "weight" not in conv._parameters:
        raise NotImplementedError(f"convolution {name!r} ({type(conv).__name__}) pads or weighs by itself")
    module.set_submodule(name, InflatedConv2d(conv, time, init))
    node.args = (*node.all_input_nodes, length)


def _average_over_time(module: fx.GraphModule, length: fx.Node) -> None:
    """Inserts the mean over a clip's frames after the vector that the output layer reads."""
    head = find_output_layer(module)
    vector = final_value(module) if head is None else head.all_input_nodes[0]
    if not is_vector(vector):
        raise NotImplementedError(f"expected an output layer that reads a vector, got {value_shape(vector)}")
    name = "clip_mean"
    while hasattr(module, name):
        name += "_"
    module.add_submodule(name, ClipMean())
    with module.graph.inserting_after(vector):
        mean = module.graph.call_module(name, (vector, length))
    users = [user for user in vector.users if user is not mean] if head is None else [head]
    for user in users:
        user.replace_input_with(vector, mean)
