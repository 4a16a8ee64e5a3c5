"""The interface of networks over sequences for training, evaluation, streams and checkpoints."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prernn.conversion.recipe import Recipe
from prernn.layers.recurrent_layer import RecurrentLayer
from prernn.ops.reference import State

NetworkState = tuple[State, ...]
"""The state of each layer that has one, in order."""

DIMENSIONS = {1: "F", 2: "C, L", 3: "C, H, W", 4: "C, D, H, W"}
"""Dimensions of one step, by their number: features, a piece of a signal, a frame, a snippet."""


class SequenceNetwork(nn.Module):
    """A network that maps steps and a state to outputs and the next state.

    Most are a `prernn.conversion.network.RecurrentNetwork`, a CNN's graph with recurrent layers;
    `prernn.models.networks.deep_speech.DeepSpeech` is implemented separately.

    Attributes:
        frame_shape: shape of the input at each step: a frame ``(C, H, W)``, a snippet ``(C, D, H, W)``, a piece of a
            signal ``(C, L)``, features ``(F,)``.
        recipe: how it was made, stored in checkpoints.
        wants_lengths: whether batches must state where each sequence ends, because padding would affect outputs.
        sees_ahead: whether outputs depend on later steps, so that it can't run step by step.
        engine: the engine that computes its steps, if it is not the network itself (`prernn.engines`).
        precision: precision of an engine's arithmetic.
    """

    engine: str = ""
    precision: str = ""

    wants_lengths: bool = False
    sees_ahead: bool = False

    def __init__(self, frame_shape: tuple[int, ...]):
        super().__init__()
        self.frame_shape = frame_shape
        self.recipe = Recipe()

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        """The recurrent layers, in order."""
        raise NotImplementedError

    @property
    def delay(self) -> int:
        """Number of steps by which an output lags behind the input that it describes."""
        return 0

    @property
    def input_type(self) -> torch.dtype:
        """Type of the input's numbers."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """The device that it runs on."""
        return next(self.parameters()).device

    def new_parameters(self) -> list[nn.Parameter]:
        """The parameters that start at random, and so have their own learning rate; the others are pre-trained."""
        raise NotImplementedError

    def init_state(self, batch_size: int, image_size: tuple[int, ...] | None = None) -> NetworkState:
        """Zero state of ``batch_size`` streams; ``image_size`` overrides the frame size given by ``frame_shape``."""
        raise NotImplementedError

    @property
    def state_names(self) -> list[str]:
        """Names of the state's leaves, in pytree order."""
        raise NotImplementedError

    def forward(
        self,
        video: Tensor,
        state: NetworkState | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        checkpoint: int | None = None,
    ) -> tuple[Tensor, NetworkState]:
        """Maps sequences ``(B, T, *frame_shape)`` to outputs ``(B, T, K)`` and the state after each one's last step."""
        raise NotImplementedError

    def step(self, frame: Tensor, state: NetworkState | None = None) -> tuple[Tensor, NetworkState]:
        """Maps one step ``(B, *frame_shape)`` to outputs ``(B, K)`` and the next state."""
        raise NotImplementedError


def shapes_of_state(state: NetworkState) -> list[list[tuple[int, ...]]]:
    """The shapes of a state's tensors, layer by layer. ValueError if it is no tuple of tuples of tensors."""
    parts = [part if isinstance(part, (tuple, list)) else None for part in state]
    if isinstance(state, Tensor) or not all(part and all(isinstance(t, Tensor) for t in part) for part in parts):
        raise ValueError(
            "expected a state as the network returned it, a tuple with a tuple of tensors for each recurrent layer, "
            f"got {type(state).__name__} of {', '.join(sorted({type(part).__name__ for part in state}))}"
        )
    return [[tuple(tensor.shape) for tensor in part] for part in state]


def frame_shape_of(net: SequenceNetwork, image_size: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The shape of a step, with the size that is given, else that of the recipe's transform, else the network's own."""
    if len(net.frame_shape) < 3:
        return net.frame_shape
    size = (net.recipe.transform or {}).get("size")
    height, width = image_size or ((size, size) if size else net.frame_shape[-2:])
    return (*net.frame_shape[:-2], height, width)
