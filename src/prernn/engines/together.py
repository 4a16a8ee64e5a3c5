"""Combines the steps of many streams, requested in one place or by many threads, into few steps of the network.

Requests whose frames and states have the same shapes become one step.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prernn.conversion.recipe import Recipe
from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.layers.recurrent_layer import RecurrentLayer

Request = tuple[Tensor, NetworkState | None]
"""The arguments of a step: frames ``(B, ...)`` and the state before them."""

Answer = tuple[Tensor, NetworkState]
"""The results of a step: outputs ``(B, K)`` and the state after them."""


def step_together(net: SequenceNetwork, requests: Sequence[Request]) -> list[Answer]:
    """What ``net.step`` returns for each of many requests, up to rounding, each with one row.

    Args:
        net: the network, in any engine.
        requests: frame ``(1, ...)`` and state of each; None is the initial state, which is zero.

    Returns:
        Output ``(1, K)`` and next state of each, in separate tensors.
    """
    answers: dict[int, Answer] = {}
    for numbers, given in _alike(net, requests):
        answers |= zip(numbers, _stepped(net, given), strict=True)
    return [answers[number] for number in range(len(requests))]


def _alike(net: SequenceNetwork, requests: Sequence[Request]) -> list[tuple[list[int], list[Answer]]]:
    """The requests grouped by shape: their numbers, and their frames and states."""
    groups: dict[Any, tuple[list[int], list[Answer]]] = {}
    for number, (frame, begun) in enumerate(requests):
        state = _started(net, frame) if begun is None else begun
        numbers, given = groups.setdefault((frame.shape, *(leaf.shape for leaf in _leaves(state))), ([], []))
        numbers.append(number)
        given.append((frame, state))
    return list(groups.values())


def _started(net: SequenceNetwork, frame: Tensor) -> NetworkState:
    return net.init_state(len(frame), tuple(frame.shape[2:]) if frame.ndim > 3 else None)


def _stepped(net: SequenceNetwork, requests: Sequence[tuple[Tensor, NetworkState]]) -> list[Answer]:
    """Like `step_together`, for requests with equal shapes."""
    if len(requests) == 1:
        return [net.step(*requests[0])]
    frames = torch.cat([frame for frame, _ in requests])
    parts = zip(*(state for _, state in requests), strict=True)  # for each layer, the states of all streams
    state = tuple(tuple(torch.cat(leaves) for leaves in zip(*part, strict=True)) for part in parts)
    out, following = net.step(frames, state)
    # copies, because a row would keep the whole batch in memory
    return [
        (out[row : row + 1].clone(), tuple(tuple(leaf[row : row + 1].clone() for leaf in part) for part in following))
        for row in range(len(requests))
    ]


def _leaves(state: NetworkState) -> list[Tensor]:
    return [leaf for part in state for leaf in part]


class _Asked(NamedTuple):
    frame: Tensor
    state: NetworkState | None
    answer: "Future[Answer]"


class Together:
    """Answers steps requested by many threads, in its own thread: those waiting when it is free form one batch.

    So nothing waits for a batch to fill, and the higher the load, the larger the batches. Each thread has one request
    in progress, so no thread gets more than one row of a batch.

    Args:
        net: the network, in any engine.
        threads: torch's number of threads, for the steps only: other threads, whose work is small, should use 1.
        most: largest number of rows in a batch.
        observe: called with the number of rows and the seconds of each batch.
    """

    def __init__(
        self,
        net: SequenceNetwork,
        threads: int | None = None,
        most: int = 64,
        observe: Callable[[int, float], None] | None = None,
    ):
        self.net, self._threads, self._most, self._observe = net, threads, most, observe
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="steps", daemon=True)
        self._thread.start()

    def step(self, frame: Tensor, state: NetworkState | None) -> Answer:
        """One row's output and next state, when its turn comes; raises what the network raises."""
        asked = _Asked(frame, state, Future())
        self._asked.put(asked)
        if self._closed and not self._thread.is_alive():
            raise RuntimeError("expected steps before the end, got one after it")
        return asked.answer.result()

    def close(self) -> None:
        """Ends the thread after pending requests; later requests raise RuntimeError."""
        self._closed = True
        self._asked.put(None)
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                if (late := self._asked.get_nowait()) is not None:
                    late.answer.set_exception(RuntimeError("expected steps before the end, got one after it"))

    def _run(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while (first := self._asked.get()) is not None:
            batch: list[_Asked] = [first]
            more: _Asked | None = first
            with contextlib.suppress(queue.Empty):
                while len(batch) < self._most and (more := self._asked.get_nowait()) is not None:
                    batch.append(more)
            self._answer(batch)
            if more is None:
                return

    def _answer(self, batch: list[_Asked]) -> None:
        with torch.inference_mode():
            for numbers, given in _alike(self.net, [(asked.frame, asked.state) for asked in batch]):
                self._answer_alike([batch[number] for number in numbers], given)

    def _answer_alike(self, asked: list[_Asked], given: list[Answer]) -> None:
        start = perf_counter()
        try:
            answers = _stepped(self.net, given)
        except Exception as error:
            if len(asked) == 1:
                asked[0].answer.set_exception(error)
                return
            for one, its in zip(
                asked, given, strict=True
            ):  # only one may be at fault; the others still get their answers
                self._answer_alike([one], [its])
            return
        if self._observe is not None:
            self._observe(len(asked), perf_counter() - start)
        for one, answer in zip(asked, answers, strict=True):
            one.answer.set_result(answer)


class SharedNetwork(SequenceNetwork):
    """A network whose steps `Together` answers: each thread can run streams through it as if it had it to itself.

    Args:
        together: what answers the steps.
        recipe: how the network was made, if a stream needs a different one, for example with another reset policy.
    """

    def __init__(self, together: Together, recipe: Recipe | None = None):
        net = together.net
        super().__init__(net.frame_shape)
        self._together = together
        self.engine, self.precision = net.engine, net.precision
        self.recipe = net.recipe if recipe is None else recipe
        self.sees_ahead, self.wants_lengths = net.sees_ahead, net.wants_lengths

    @property
    def recurrent_layers(self) -> list[RecurrentLayer]:
        """The recurrent layers, in order."""
        return self._together.net.recurrent_layers

    @property
    def delay(self) -> int:
        """Number of steps by which an output lags behind the frame that it is about."""
        return self._together.net.delay

    @property
    def input_type(self) -> torch.dtype:
        """The data type of the input."""
        return self._together.net.input_type

    @property
    def device(self) -> torch.device:
        """The device on which it computes."""
        return self._together.net.device

    @property
    def state_names(self) -> list[str]:
        """Names of the state's leaves, in pytree order."""
        return self._together.net.state_names

    def init_state(self, batch_size: int, image_size: tuple[int, ...] | None = None) -> NetworkState:
        """Zero state of ``batch_size`` streams."""
        return self._together.net.init_state(batch_size, image_size)

    def step(self, frame: Tensor, state: NetworkState | None = None) -> Answer:
        """One stream's frame ``(1, C, H, W)`` to its output and next state, together with those of other threads.

        Raises:
            ValueError: frames of several streams; what the network raises.
        """
        if len(frame) != 1:
            raise ValueError(f"expected the frame of one stream, got those of {len(frame)}")
        return self._together.step(frame, state)
