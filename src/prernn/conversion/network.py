"""A CNN with recurrent layers, for whole videos or frame by frame."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
import torch.utils.checkpoint
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import Target
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from prernn.conversion.graph import shapes, tracing
from prernn.conversion.graph.ending import find_output_layer
from prernn.conversion.graph.graft import layer_output, recurrent_nodes
from prernn.conversion.graph.nodes import inputs_of, layer_at, name_of, nodes_of, shape_of, value_shape
from prernn.conversion.graph.traced import traced
from prernn.conversion.lighter.clamping import clamps_of, from_result
from prernn.conversion.lighter.folding import Pair, foldable, folded, pairs_of
from prernn.conversion.lighter.products import faster_products, plain_layers
from prernn.conversion.modes import evaluating
from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import DIMENSIONS, NetworkState, SequenceNetwork, shapes_of_state
from prernn.layers.arguments import check_lengths, whole
from prernn.layers.computed_weights import copy_of, refresh_all
from prernn.layers.dropout import lent, of_rows
from prernn.layers.input_to_hidden import Layer, TraditionalInput
from prernn.layers.recurrent_layer import RecurrentLayer


class RecurrentNetwork(SequenceNetwork):
    """A CNN whose graph takes frames and a state, and gives outputs and the next state.

    Example:
        >>> import prernn, torch
        >>> cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
        >>> net = prernn.convert(cnn.eval(), "fc6", cell="gru")
        >>> video = torch.rand(1, 3, 3, 16, 16)
        >>> whole, _ = net(video)
        >>> state = None
        >>> for frame in video.unbind(1):
        ...     out, state = net.step(frame, state)
        >>> torch.allclose(out, whole[:, -1], atol=1e-5)
        True

    The state is a value that is passed in and returned: a tuple with one tuple of tensors, batch first, for each
    recurrent layer in the order of ``recurrent_layers``. Networks are made by `prernn.convert`, `prernn.traditional`
    or `prernn.framewise`.

    Attributes:
        cnn: the graph; its submodules keep the names they have in the CNN.
        drawn_anew: parameters that start at random, in addition to those that recurrence introduced.
    """

    def __init__(self, cnn: fx.GraphModule, frame_shape: tuple[int, ...]):
        super().__init__(frame_shape)
        self.cnn = cnn
        self.drawn_anew: set[nn.Parameter] = set()
        self.note_layers()

    def note_layers(self) -> None:
        """Records where the recurrent layers are; must be called whenever the graph has changed."""
        nodes = recurrent_nodes(self.cnn)
        self._layers = [(name_of(node), shape_of(layer_output(node))[2:]) for node in nodes]  # and their maps' size
        self._map_sizes: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self._foldable: list[Pair] | None = None
        self._clamps: list[nn.Hardtanh] = []
        self._plain: list[nn.Linear] = []

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all modules."""
        self._foldable = None  # which statistics are frozen may have changed
        return super().train(mode)

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        """The recurrent layers, in order."""
        return [cast(RecurrentLayer, self.cnn.get_submodule(name)) for name, _ in self._layers]

    @property
    def output_layer(self) -> Layer | None:
        """The layer whose values are the outputs; None if the network ends in features."""
        node = find_output_layer(self.cnn)
        return None if node is None else layer_at(self.cnn, node)

    def new_parameters(self) -> list[nn.Parameter]:
        """The parameters that start at random, and so have their own learning rate; the others are pre-trained."""
        fresh: set[str] = set()
        for (name, _), layer in zip(self._layers, self.recurrent_layers, strict=True):
            fresh |= {f"cnn.{name}.hidden_to_hidden", f"cnn.{name}.bias"}
            if isinstance(layer.input_to_hidden, TraditionalInput):
                fresh.add(f"cnn.{name}.input_to_hidden")
        new = (any(f"{name}.".startswith(f"{part}.") for part in fresh) for name, _ in self.named_parameters())
        pairs = zip(new, self.parameters(), strict=True)
        return [p for is_new, p in pairs if is_new or p in self.drawn_anew]

    def init_state(self, batch_size: int, image_size: tuple[int, ...] | None = None) -> NetworkState:
        """Zero state of ``batch_size`` streams.

        Args:
            batch_size: number of streams B.
            image_size: ``(H, W)`` of the frames or ``(D, H, W)`` of snippets, if a state holds feature maps; None means
                that of ``frame_shape``.
        """
        return self._zeros(whole("batch_size", batch_size, 0), image_size)

    def _zeros(self, batch_size: int, image_size: tuple[int, ...] | None) -> NetworkState:
        """`init_state` for a batch size that may be variable, in an export."""
        sizes = self.map_sizes(image_size)
        return tuple(
            layer.init_state(batch_size, *size) for layer, size in zip(self.recurrent_layers, sizes, strict=True)
        )

    def map_sizes(self, image_size: tuple[int, ...] | None = None) -> list[tuple[int, ...]]:
        """Size of each recurrent layer's feature maps, ``()`` for vectors; ``image_size`` is as in `init_state`."""
        known = [size for _, size in self._layers]
        size = self.frame_shape[-2:] if image_size is None else shapes.checked_size(image_size)
        if size == self.frame_shape[-len(size) :] or not any(known):
            return known
        if size not in self._map_sizes:
            self._map_sizes[size] = [tuple(u.shape[3:]) for u in gate_inputs(self, size)]
        return self._map_sizes[size]

    @property
    def input_type(self) -> torch.dtype:
        """int64 if an embedding takes word indices, else the type of the parameters."""
        return shapes.input_type(self.cnn)

    @property
    def state_names(self) -> list[str]:
        """Names of the state's leaves, in pytree order."""
        return [f"state_{i}_{name}" for i, layer in enumerate(self.recurrent_layers) for name in layer.cell.states]

    def _open_state(self, state: NetworkState | None, frames: Tensor, batch: int) -> NetworkState:
        """The state to start from; ValueError if it belongs to another network or batch."""
        if state is None:
            return self._zeros(batch, tuple(frames.shape[1 - len(self.frame_shape) :]))
        layers = self.recurrent_layers
        given = shapes_of_state(state)
        # the layer checks the size of maps, as it knows that of its frames
        sizes = [part[0][2:] if size and part else () for (_, size), part in zip(self._layers, given, strict=False)]
        wanted = [layer.state_shapes(batch, *size) for layer, size in zip(layers, sizes, strict=False)]
        if given != wanted or len(given) != len(layers):
            wanted = [layer.state_shapes(batch, *size) for layer, size in zip(layers, self.map_sizes(), strict=True)]
            raise ValueError(f"expected a state of {batch} streams with shapes {wanted}, got {given}")
        return state

    def _check_frames(self, frames: Tensor, channels: int) -> None:
        if channels != self.frame_shape[0]:
            raise ValueError(f"expected frames of {self.frame_shape[0]} channels, got {channels}")
        shapes.check_type(self.cnn, frames)

    def __getstate__(self) -> dict[str, Any]:
        # torch.fx pickles a graph as code, which forgets the shapes of its values
        found: dict[str, Any] = {"_foldable": None, "_clamps": [], "_plain": []}  # recomputed in training
        return {**self.__dict__, **found, "shapes": [value_shape(node) for node in nodes_of(self.cnn.graph)]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("shapes")
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's own has no types
        for node, shape in zip(nodes_of(self.cnn.graph), kept, strict=True):
            node.meta["shape"] = shape

    def forward(
        self,
        video: Tensor,
        state: NetworkState | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        checkpoint: int | None = None,
    ) -> tuple[Tensor, NetworkState]:
        """Processes a whole video, or the next chunk of one if ``state`` is given.

        Args:
            video: ``(B, T, C, H, W)``, snippets ``(B, T, C, D, H, W)``, or features ``(B, T, F)`` of any other signal.
            state: as returned before; None starts at zero.
            lengths: frames of each video ``(B,)``, at least 1. Later frames are padding and ignored: their outputs are
                0, and the state is that after a video's last frame.
            checkpoint: activation checkpointing for long clips: for each group of this many frames only the state at
                its start is kept, and the frames are recomputed for the gradient. Outputs and gradients are the same;
                memory grows with ``T / checkpoint`` states and ``checkpoint`` frames.

        Returns:
            Outputs ``(B, T, K)``, causal in T, and the state after the last frame. No videos (B = 0) give no outputs,
            ``(0, T, K)``.

        Raises:
            ValueError: a video of another rank or number of channels, or without frames; lengths that don't fit.
            NotImplementedError: checkpointing or lengths while batch normalization collects statistics, which would be
                those of parts.
        """
        rank = len(self.frame_shape) + 2
        if video.ndim != rank or video.shape[1] == 0:
            wanted = f"(B, T, {DIMENSIONS[len(self.frame_shape)]})"
            raise ValueError(f"expected video {wanted} with at least one frame, got shape {tuple(video.shape)}")
        self._check_frames(video, video.shape[2])
        batch, steps = video.shape[:2]
        if lengths is not None and batch:
            return self._by_lengths(video, state, lengths, checkpoint)
        if checkpoint is not None:
            return self._in_parts(video, state, checkpoint)
        state = self._open_state(state, video, batch)
        frames = video.transpose(0, 1).flatten(0, 1)  # (T*B, C, H, W): time first, as the recurrence needs it
        with self._lighter_training():
            out, state = self.cnn(frames, state)
        return out.unflatten(0, (steps, batch)).transpose(0, 1), state  # (B, T, K)

    def _lighter_training(self) -> contextlib.AbstractContextManager[Any]:
        """In training, folds frozen batch normalization, keeps one map per clamp, and speeds up fc layers."""
        stack = contextlib.ExitStack()
        if self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if self._foldable is None:
                self._foldable, self._clamps = foldable(pairs_of(self.cnn)), clamps_of(self.cnn)
                self._plain = plain_layers(self.cnn)
            stack.enter_context(folded(self._foldable))
            stack.enter_context(from_result(self._clamps))
            stack.enter_context(faster_products(self._plain))
        return stack

    def _in_parts(self, video: Tensor, state: NetworkState | None, frames: int) -> tuple[Tensor, NetworkState]:
        frames = whole("checkpoint", frames)
        self._check_statistics("checkpoint")
        layers, outputs = self.recurrent_layers, []
        masks = [layer.draw_masks(len(video)) for layer in layers]

        def run(part: Tensor, state: NetworkState | None) -> tuple[Tensor, NetworkState]:
            with lent(layers, masks):  # also when it is recomputed later
                both: tuple[Tensor, NetworkState] = self(part, state)
                return both

        for part in video.split(frames, dim=1):
            out, state = torch.utils.checkpoint.checkpoint(run, part, state, use_reentrant=False)
            outputs.append(out)
        assert state is not None  # a video has a part
        return torch.cat(outputs, dim=1), state

    def _by_lengths(
        self, video: Tensor, state: NetworkState | None, lengths: Tensor | Sequence[int], checkpoint: int | None
    ) -> tuple[Tensor, NetworkState]:
        batch, steps = video.shape[:2]
        own = check_lengths(lengths, steps, batch, video.device, least=1)
        assert own is not None  # as lengths are given
        self._check_statistics("lengths")

        def run(going: Tensor, begin: int, end: int, state: NetworkState) -> tuple[Tensor, NetworkState]:
            both: tuple[Tensor, NetworkState] = self(video[going, begin:end], state, checkpoint=checkpoint)
            return both

        return by_lengths(run, own, steps, self._open_state(state, video, batch), self.recurrent_layers)

    def _check_statistics(self, option: str) -> None:
        if any(isinstance(part, _BatchNorm) and part.training for part in self.modules()):
            raise NotImplementedError(
                f"{option} needs batch normalization on frozen statistics, got some in training: "
                "after net.train(), call eval() on each such layer"
            )

    def step(self, frame: Tensor, state: NetworkState | None = None) -> tuple[Tensor, NetworkState]:
        """One frame of a stream, at constant cost.

        Args:
            frame: ``(B, C, H, W)``, snippets ``(B, C, D, H, W)``, features ``(B, F)``.
            state: as returned before; None starts at zero.

        Returns:
            Outputs ``(B, K)`` and the next state.

        Raises:
            ValueError: a frame of another rank or number of channels.
        """
        if frame.ndim != len(self.frame_shape) + 1:
            wanted = f"(B, {DIMENSIONS[len(self.frame_shape)]})"
            raise ValueError(f"expected frame {wanted}, got shape {tuple(frame.shape)}")
        self._check_frames(frame, frame.shape[1])
        out, following = self.cnn(frame, self._open_state(state, frame, frame.shape[0]))
        return out, following


def of_a_cnn(net: SequenceNetwork) -> RecurrentNetwork:
    """The network as a CNN's graph. Raises NotImplementedError if it is of another kind."""
    if not isinstance(net, RecurrentNetwork):
        raise NotImplementedError(f"expected a network that was made of a CNN, got {type(net).__name__}")
    return net


def by_lengths(
    run: Callable[[Tensor, int, int, NetworkState], tuple[Tensor, NetworkState]],
    lengths: Tensor,
    steps: int,
    state: NetworkState,
    layers: Sequence[RecurrentLayer],
) -> tuple[Tensor, NetworkState]:
    """Runs videos of different lengths in parts: between two videos' ends, all videos that are not over yet.

    Args:
        run: maps rows, their first step and the one after their last, and the rows' states to outputs
            ``(rows, T', K)`` and the next states.
        lengths: steps of each video ``(B,)``.
        steps: number of steps of the outputs.
        state: state of B streams.
        layers: the layers that ``run`` uses; all parts of a video get the same dropout masks.

    Returns:
        Outputs ``(B, T, K)``, 0 after a video's end, and the state at each video's end.
    """
    masks = [layer.draw_masks(len(lengths)) for layer in layers]
    outputs: list[Tensor] = []
    batch = len(lengths)
    for begin, end in itertools.pairwise(sorted({0, *lengths.tolist()})):
        going = (lengths >= end).nonzero().squeeze(1)
        with lent(layers, of_rows(masks, going)):
            part, following = run(going, begin, end, tree_map(lambda t, going=going: t[going], state))
        state = tree_map(lambda t, new, going=going: t.index_copy(0, going, new), state, following)
        outputs.append(part.new_zeros(batch, *part.shape[1:]).index_copy(0, going, part))
    out = torch.cat(outputs, dim=1)
    padding = out.new_zeros(batch, steps - out.shape[1], *out.shape[2:])
    return torch.cat([out, padding], dim=1), state


def gate_inputs(
    network: RecurrentNetwork,
    image_size: tuple[int, ...],
    watch: contextlib.AbstractContextManager[Any] | None = None,
) -> list[Tensor]:
    """Gate inputs ``(1, G, D...)`` of every recurrent layer for one frame of a size: only shapes, without computing.

    ``watch`` is a context manager around everything feedforward, such as torch's counter of operations.

    Raises:
        ValueError: frames of a size that the network does not accept.
    """
    image_size, parameter = shapes.checked_size(image_size), next(network.parameters())
    shape = (*network.frame_shape[: -len(image_size)], *image_size)
    feedforward = _Feedforward(network.cnn)
    # in evaluation mode, because batch normalization would otherwise count even this frame
    with evaluating(network), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        frame = torch.empty(1, *shape, dtype=shapes.input_type(network.cnn), device=parameter.device)
        try:
            with watch or contextlib.nullcontext():
                feedforward.run(frame, [None] * len(network.recurrent_layers), enable_io_processing=False)
        except RuntimeError as error:
            raise ValueError(f"the network takes no frames {shape}: {tracing.first_line(error)}") from error
        finally:
            refresh_all(network)
    return feedforward.inputs


class _Feedforward(fx.Interpreter):
    """Runs a network's graph without its recurrence: a recurrent layer outputs its first gate's input."""

    def __init__(self, cnn: fx.GraphModule):
        super().__init__(cnn)
        self.extra_traceback = False
        self.inputs: list[Tensor] = []

    def call_module(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Like fx.Interpreter's, except for recurrent layers."""
        assert isinstance(target, str)
        layer = self.fetch_attr(target)
        if not isinstance(layer, RecurrentLayer):
            return super().call_module(target, args, kwargs)
        self.inputs.append(layer.input_to_hidden(*args[0]))
        return self.inputs[-1][:, 0], None


def open_network(cnn: nn.Module, image_size: tuple[int, ...] | None = None) -> RecurrentNetwork:
    """A network without recurrence that computes the same as ``cnn``, or a copy if ``cnn`` is already a network.

    Args:
        cnn: any CNN that torch.fx can trace; it is copied.
        image_size: ``(H, W)`` or ``(D, H, W)`` of a frame, needed only if no usual size fits.

    Raises:
        NotImplementedError: the CNN can't be traced, or accepts none of the usual frame sizes.
    """
    if isinstance(cnn, RecurrentNetwork):
        return copy_of(cnn)
    # a network with a fixed frame size may have it as an attribute, as prernn's own do
    module, shape = traced(cnn, getattr(cnn, "frame_size", None) if image_size is None else image_size)
    tracing.make_output_linear(module)
    _add_state(module)
    network = RecurrentNetwork(module, shape).train(cnn.training)
    network.recipe = Recipe(**getattr(cnn, "recipe_of_backbone", {}))  # set by `prernn.backbone`
    return network


def _add_state(module: fx.GraphModule) -> None:
    """Gives the graph a second input, the state, and a second output, the next state: both empty tuples."""
    frames, *others = inputs_of(module.graph)
    for node in others:  # arguments that were fixed at their defaults
        module.graph.erase_node(node)
    with module.graph.inserting_after(frames):
        module.graph.placeholder("state")
    output = module.graph.output_node()
    output.args = ((output.args[0], ()),)
    module.recompile()
