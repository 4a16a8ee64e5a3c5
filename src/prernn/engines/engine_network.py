"""A network whose steps another runtime computes; streams and tasks use it like any other network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import DIMENSIONS, NetworkState, SequenceNetwork
from prernn.engines.exported.description import Description, StateLeaf, in_file
from prernn.layers.recurrent_layer import RecurrentLayer

Runner = Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]
"""From a frame ``(B, C, H, W)`` and the state's tensors, shaped as in a file, to the output and the next ones."""


class EngineNetwork(SequenceNetwork):
    """A `SequenceNetwork` computed by an exported step.

    Args:
        description: of the network.
        runner_for: returns a function that runs steps of a shape ``(C, H, W)``; called once for each shape.
        engine: its name.
        precision: of its arithmetic.
        origin: the network it was made from, if available: float32, on the CPU.

    Attributes:
        engine: "onnxruntime" or "openvino"; for a program of torch.export "torch".
        precision: "float32", "bfloat16" or "float16"; outputs and state are float32 in all of them.
    """

    def __init__(
        self,
        description: Description,
        runner_for: Callable[[tuple[int, ...]], Runner],
        engine: str,
        precision: str,
        origin: SequenceNetwork | None = None,
    ):
        super().__init__(description.frame_shape)
        self.recipe = Recipe.from_json(description.recipe) if origin is None else origin.recipe
        self.engine, self.precision, self.description = engine, precision, description
        self._runner_for, self._runners = runner_for, dict[tuple[int, ...], Runner]()
        self._origin = (origin,)  # in a tuple, so that it is not registered as a submodule
        self.wants_lengths = origin is not None and origin.wants_lengths

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        """Empty: the layers are inside the engine."""
        return []

    @property
    def delay(self) -> int:
        """Number of steps by which an output lags behind the frame that it is about."""
        return self.description.delay

    @property
    def input_type(self) -> torch.dtype:
        """The data type of the input."""
        return torch.int64 if self.description.input_type == "int64" else torch.float32

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def new_parameters(self) -> list[nn.Parameter]:
        """Empty: an engine can't be trained."""
        return []

    @property
    def state_names(self) -> list[str]:
        """Names of the state's leaves, in pytree order."""
        return [leaf.name for leaf in self.description.states]

    def init_state(self, batch_size: int, image_size: tuple[int, ...] | None = None) -> NetworkState:
        """Zero state of ``batch_size`` streams; for frames of another size only if its origin is available."""
        (origin,) = self._origin
        if origin is not None:
            return origin.init_state(batch_size, image_size)
        return _nested(
            [torch.zeros(batch_size, *leaf.shape) for leaf in self.description.states], self.description.states
        )

    def step(self, frame: Tensor, state: NetworkState | None = None) -> tuple[Tensor, NetworkState]:
        """One frame of each stream, ``(B, C, H, W)``, to outputs ``(B, K)`` and the next state.

        Raises:
            ValueError: a frame or a state of the wrong shape.
        """
        self._check(frame)
        batch, shape = frame.shape[0], tuple(frame.shape[1:])
        if state is None:
            state = self.init_state(batch, shape[1:] if len(shape) > 2 else None)
        leaves = [leaf for part in state for leaf in part]
        wanted = [(batch, *leaf.shape) for leaf in self.description.states]
        got = [tuple(leaf.shape) for leaf in leaves]
        maps_differ = [w[:2] for w in wanted] == [g[:2] for g in got] and self._origin[0] is not None
        if got != wanted and not maps_differ:
            raise ValueError(f"expected a state of {batch} streams with shapes {wanted}, got {got}")
        if shape not in self._runners:
            self._runners[shape] = self._runner_for(shape)
        given = frame.cpu().to(self.input_type)
        out, following = self._runners[shape](given, [in_file(leaf).cpu().float().contiguous() for leaf in leaves])
        opened = [new.view(old.shape).to(old.device) for new, old in zip(following, leaves, strict=True)]
        return out.to(frame.device), _nested(opened, self.description.states)

    def _check(self, frame: Tensor) -> None:
        rank, known = len(self.frame_shape) + 1, self.description
        if frame.ndim != rank or frame.shape[1] != self.frame_shape[0]:
            wanted = f"(B, {DIMENSIONS[len(self.frame_shape)]}) with C = {self.frame_shape[0]}"
            raise ValueError(f"expected frame {wanted}, got shape {tuple(frame.shape)}")
        if self._origin[0] is None and not known.free_size and tuple(frame.shape[1:]) != self.frame_shape:
            raise ValueError(f"expected a frame {self.frame_shape} as the file's, got {tuple(frame.shape[1:])}")

    def forward(
        self,
        video: Tensor,
        state: NetworkState | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        checkpoint: int | None = None,
    ) -> tuple[Tensor, NetworkState]:
        """A video ``(B, T, C, H, W)``, step by step; ``lengths`` as in `RecurrentNetwork.forward`."""
        if checkpoint is not None:
            raise NotImplementedError("expected no activation checkpoints: an engine does not learn")
        return in_steps(self, video, state, lengths)


def in_steps(
    net: SequenceNetwork, video: Tensor, state: NetworkState | None, lengths: Tensor | Sequence[int] | None = None
) -> tuple[Tensor, NetworkState]:
    """Runs videos ``(B, T, C, H, W)`` step by step; after a video's end, outputs are 0 and the state stays."""
    ends = None if lengths is None else torch.as_tensor(lengths)
    outputs = []
    for time, frame in enumerate(video.unbind(1)):
        out, following = net.step(frame, state)
        if ends is not None:
            state = net.init_state(len(video), tuple(frame.shape[2:])) if state is None else state
            out, following = _kept(time < ends, out, following, state)
        state = following
        outputs.append(out)
    return torch.stack(outputs, 1), state or ()


def _kept(going: Tensor, out: Tensor, following: NetworkState, state: NetworkState) -> tuple[Tensor, NetworkState]:
    """Outputs and states of the rows that continue; for the others zeros and their previous state."""

    def where(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(going.view(-1, *[1] * (new.ndim - 1)), new, old)

    pairs = [zip(part, before, strict=True) for part, before in zip(following, state, strict=True)]
    return where(out, torch.zeros_like(out)), tuple(tuple(where(new, old) for new, old in part) for part in pairs)


def _nested(leaves: list[Tensor], known: tuple[StateLeaf, ...]) -> NetworkState:
    """The leaves grouped by layer."""
    layers: dict[int, list[Tensor]] = {}
    for leaf, about in zip(leaves, known, strict=True):
        layers.setdefault(about.layer, []).append(leaf)
    return tuple(tuple(part) for part in layers.values())
