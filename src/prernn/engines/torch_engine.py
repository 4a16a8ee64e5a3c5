"""The engine that is always available: torch, with the network's graph prepared for a stream."""

import contextlib
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prernn.conversion.lighter.low_precision import holds_integers, in_integers, low_precision
from prernn.conversion.modes import channels_last, evaluating
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.engines.engine_network import Runner, in_steps
from prernn.engines.exported.description import Description
from prernn.engines.fused_convolutions import FusedConvolution, fused
from prernn.layers.computed_weights import copy_of
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.ops.backends import has_bfloat16, takes_native
from prernn.ops.narrow import FEW

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}
"""The data types of the arithmetic: in int8, 8-bit weights are multiplied by floats."""

INTEGERS = "integers"
"""Another variant of a "float32" network: its quantized weights as the integers that they are multiples of."""


class TorchNetwork(SequenceNetwork):
    """A network whose steps run through a graph with fused convolutions (`prernn.engines.fused_convolutions`).

    It follows its source: what was made from weights that have changed since is made again. Networks with one source
    share what was made from it.

    Args:
        source: the network.
        precision: "float32", as the weights are; in "bfloat16" and "float16" everything feedforward is computed with
            such numbers, and the recurrence in float32, because its rounding errors would add up; in "int8" recurrent
            and fully connected layers have 8-bit weights (`prernn.low_precision`), and all the rest is float32.
        integers: whether large quantized weights are read as the integers that they are multiples of, a quarter of the
            bytes, in steps of up to `FEW` streams and by the C kernels (`prernn.conversion.lighter.low_precision`): the
            outputs are the same up to rounding. The source keeps its weights.

    Raises:
        NotImplementedError: a precision that the device lacks.
    """

    engine = "torch"

    def __init__(self, source: SequenceNetwork, precision: str = "float32", *, integers: bool = False):
        super().__init__(source.frame_shape)
        if precision != "float32":
            _check_device(source.device, precision)
        channels_last(source)
        self.source, self.precision, self.recipe = source, precision, source.recipe
        self.sees_ahead, self.wants_lengths = source.sees_ahead, source.wants_lengths
        self._ready = _ready_for(source, precision)
        may = integers and precision == "float32" and source.device.type == "cpu" and takes_native()
        self._few = _ready_for(source, INTEGERS) if may and holds_integers(source) else self._ready

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        """The recurrent layers, in order."""
        return self.source.recurrent_layers

    @property
    def delay(self) -> int:
        """Number of steps by which an output lags behind the frame that it is about."""
        return self.source.delay

    @property
    def input_type(self) -> torch.dtype:
        """The data type of the input."""
        own = self.source.input_type
        return own if self.precision == "float32" or own == torch.int64 else torch.float32

    def init_state(self, batch_size: int, image_size: tuple[int, ...] | None = None) -> NetworkState:
        """Zero state of ``batch_size`` streams."""
        state = self.source.init_state(batch_size, image_size)
        if self.precision == "float32":
            return state
        return tuple(tuple(leaf.float() for leaf in part) for part in state)

    @property
    def state_names(self) -> list[str]:
        """Names of the state's leaves, in pytree order."""
        return self.source.state_names

    def step(self, frame: Tensor, state: NetworkState | None = None) -> tuple[Tensor, NetworkState]:
        """One frame ``(B, C, H, W)`` to outputs ``(B, K)`` and the next state; raises as the network's own step."""
        ready = self._ready if frame.ndim and len(frame) > FEW else self._few
        ready.follow()
        with evaluating(self.source), self._computing():
            out, state = ready.stepper.step(frame, state)
        return out.float() if self.precision != "float32" else out, state

    def forward(
        self,
        video: Tensor,
        state: NetworkState | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        checkpoint: int | None = None,
    ) -> tuple[Tensor, NetworkState]:
        """A video ``(B, T, C, H, W)``, step by step."""
        if checkpoint is not None:
            raise NotImplementedError("expected no activation checkpoints: an engine does not learn")
        if self.sees_ahead:
            with evaluating(self.source), self._computing():
                out, following = self.source(video, state, lengths)
            return out, following
        return in_steps(self, video, state, lengths)

    def _computing(self) -> contextlib.AbstractContextManager[Any]:
        if TYPES[self.precision] == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.source.device.type, dtype=TYPES[self.precision])


class _Ready:
    """What was made from a network for its steps, and the weights that it was made from.

    Attributes:
        stepper: the network whose ``step`` is called: the source itself, one that shares everything but the graph with
            it, or for other precisions one made from a copy.
    """

    def __init__(self, source: SequenceNetwork, precision: str):
        self._source, self._precision = weakref.ref(source), precision  # weak, because a cache is keyed by it
        self.stepper: Any = None
        self._fused: list[FusedConvolution] = []
        self._make(source)

    def _make(self, source: SequenceNetwork) -> None:
        single, names = self._precision in ("float32", INTEGERS), list[str]()
        with torch.inference_mode(False):  # in inference mode, changed weights could not be detected
            if self._precision == INTEGERS:
                own, names = in_integers(source)
            else:
                own = source if single else _in_precision(copy_of(source).float().eval(), self._precision)
        self.stepper, self._fused = weakref.proxy(source) if own is source else own, []
        if isinstance(own, RecurrentNetwork) and next(own.parameters()).dtype != torch.float64:
            with evaluating(own):
                cnn, self._fused = fused(own.cnn, TYPES.get(self._precision, torch.float32))
            self.stepper = object.__new__(type(own))
            self.stepper.__dict__ = {**own.__dict__, "_modules": {**own._modules, "cnn": cnn}, "training": False}
        self._integers = [name.rpartition(".") for name in names]
        watched = [part.sources() for part in self._fused] if single else [[*source.parameters(), *source.buffers()]]
        self._watched = [tensor for part in watched for tensor in part if not tensor.is_inference()]
        self._seen = self._versions(source)

    def _versions(self, source: SequenceNetwork) -> list[tuple[int, int]]:
        own = [
            getattr(source.get_submodule(path), name) for path, _, name in self._integers
        ]  # they may have been replaced by now
        return [
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in (*self._watched, *own)
        ]

    def follow(self) -> None:
        """Makes what depends on changed weights again."""
        source = self._source()
        if source is None or (now := self._versions(source)) == self._seen:
            return
        if self._precision != "float32":
            self._make(source)
            return
        for part in self._fused:
            part.refresh()
        self._seen = now


_KEPT: weakref.WeakKeyDictionary[SequenceNetwork, dict[Any, _Ready]] = weakref.WeakKeyDictionary()


def _ready_for(source: SequenceNetwork, precision: str) -> _Ready:
    """What all streams through a network share, as long as its graph and hooks stay the same."""
    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in source.modules())
    key = (precision, id(getattr(source, "cnn", None)), hooks, source.device, next(source.parameters()).dtype)
    found = _KEPT.setdefault(source, {})
    if key not in found:
        if len(found) > 3:
            found.clear()
        found[key] = _Ready(source, precision)
    return found[key]


def _check_device(device: torch.device, precision: str) -> None:
    if precision == "int8":
        if device.type != "cpu":
            raise NotImplementedError(f"engine torch: int8 expects the CPU, got a network on {device}")
        return
    if device.type == "cuda":
        return
    if precision == "float16":
        raise NotImplementedError("engine torch: float16 expects a GPU, got a network on the CPU")
    if not has_bfloat16():
        raise NotImplementedError("engine torch: this processor does not compute with bfloat16")


def _in_precision(net: SequenceNetwork, precision: str) -> SequenceNetwork:
    """Uses 8-bit weights; or casts those of everything feedforward, in place, so that autocast casts the inputs."""
    if precision == "int8":
        return low_precision(net, precision)
    dtype = TYPES[precision]
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv3d):
            part.to(dtype)
    return net


def program_runner(program: nn.Module, description: Description) -> Runner:
    """A function that runs the steps or sequences of a torch.export program."""
    layers = Counter(leaf.layer for leaf in description.states)

    def run(frame: Tensor, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        rest = iter(leaves)
        state = tuple(tuple(next(rest) for _ in range(count)) for count in layers.values())
        with torch.no_grad():
            out, following = program(frame, state) if state else program(frame)
        return out, [leaf for part in following for leaf in part]

    return run
