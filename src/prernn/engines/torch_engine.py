"""The engine that is always there: torch, with the network's graph made ready for a stream."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prernn.conversion.modes import channels_last, evaluating
from prernn.conversion.network import RecurrentNetwork
from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.engines.engine_network import Runner, in_steps
from prernn.engines.exported.description import Description
from prernn.engines.fused_convolutions import FusedConvolution, fused
from prernn.layers.computed_weights import copy_of
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.ops.backends import has_bfloat16

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchNetwork(SequenceNetwork):
    """A network whose steps run through a graph with fused convolutions (`prernn.engines.fused_convolutions`).

    It follows its source: when one of the weights that were fused changes, they are fused anew.

    Args:
        source: the network.
        precision: "float32", as the weights are; in "bfloat16" and "float16" everything feedforward computes with
            such numbers, and the recurrence in float32, whose rounding errors would add up.

    Raises:
        NotImplementedError: a precision that the device does not have.
    """

    engine: ClassVar[str] = "torch"

    def __init__(self, source: SequenceNetwork, precision: str = "float32"):
        super().__init__(source.frame_shape)
        self.precision, self._type = precision, TYPES[precision]
        if precision != "float32":
            _check_device(source.device, precision)
            source = _in_type(copy_of(source), self._type)
        channels_last(source)
        self.source = source
        self.recipe: Recipe = source.recipe
        self._fused: list[FusedConvolution] = []
        self._stepper: SequenceNetwork = source
        if isinstance(source, RecurrentNetwork) and (precision != "float32" or _is_single(source)):
            cnn, self._fused = fused(source.cnn, self._type)
            stepper = object.__new__(type(source))  # shares everything but the graph
            stepper.__dict__ = {**source.__dict__, "_modules": {**source._modules, "cnn": cnn}}
            self.__dict__["_stepper"] = stepper  # no module of this one's: its modules are the source's
        self._seen = self._versions()

    def _versions(self) -> list[tuple[int, int]]:
        return [(source.data_ptr(), _version(source)) for part in self._fused for source in part.sources()]

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        """The recurrent layers, in order."""
        return self.source.recurrent_layers

    @property
    def delay(self) -> int:
        """Steps by which an output comes later than what it is about."""
        return self.source.delay

    @property
    def input_type(self) -> torch.dtype:
        """Of the input's numbers."""
        return self.source.input_type if self._type == torch.float32 else torch.float32

    def init_state(self, batch_size: int, image_size: tuple[int, ...] | None = None) -> NetworkState:
        """Zero state of ``batch_size`` streams."""
        return self.source.init_state(batch_size, image_size)

    @property
    def state_names(self) -> list[str]:
        """Names of the state's leaves, in pytree order."""
        return self.source.state_names

    def step(self, frame: Tensor, state: NetworkState | None = None) -> tuple[Tensor, NetworkState]:
        """One frame ``(B, C, H, W)`` to outputs ``(B, K)`` and the next state; raises as the network's own."""
        seen = self._versions()
        if seen != self._seen:
            for part in self._fused:
                part.refresh()
            self._seen = seen
        with evaluating(self.source), self._computing():
            out, state = self._stepper.step(frame, state)
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
        return in_steps(self, video, state, lengths)

    def _computing(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.source.device.type, dtype=self._type)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _is_single(net: SequenceNetwork) -> bool:
    return next(net.parameters()).dtype == torch.float32


def _check_device(device: torch.device, precision: str) -> None:
    if device.type == "cuda":
        return
    if precision == "float16":
        raise NotImplementedError("engine torch: float16 expects a GPU, got a network on the CPU")
    if not has_bfloat16():
        raise NotImplementedError("engine torch: this processor does not compute with bfloat16")


def _in_type(net: SequenceNetwork, dtype: torch.dtype) -> SequenceNetwork:
    """Casts the weights of everything feedforward, in place; autocast then casts what goes in."""
    for part in net.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv3d):
            part.to(dtype)
    return net


def program_runner(program: nn.Module, description: Description) -> Runner:
    """What runs the steps or sequences of a program of torch.export."""
    layers = Counter(leaf.layer for leaf in description.states)

    def run(frame: Tensor, leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        rest = iter(leaves)
        state = tuple(tuple(next(rest) for _ in range(count)) for count in layers.values())
        with torch.no_grad():
            out, following = program(frame, state) if state else program(frame)
        return out, [leaf for part in following for leaf in part]

    return run
