"""Steps of many streams as few steps of the network: those with frames and states of the same shapes at once."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from prernn.conversion.sequence_network import NetworkState, SequenceNetwork
from prernn.streaming.stream import Request

Answer = tuple[Tensor, NetworkState]
Key = TypeVar("Key")


def step_together(net: SequenceNetwork, requests: Sequence[Request]) -> list[Answer]:
    """What ``net.step`` gives for each of many requests, up to rounding, each with one row.

    Args:
        net: the network, in any engine.
        requests: frame ``(1, ...)`` and state of each; None is the state to start from, which is zero.

    Returns:
        Output ``(1, K)`` and next state of each, in tensors of their own.
    """
    given = [(frame, _started(net, frame) if state is None else state) for frame, state in requests]
    if len(given) == 1:
        return [net.step(*given[0])]
    alike: dict[Any, list[int]] = {}
    for number, (frame, state) in enumerate(given):
        alike.setdefault((frame.shape, *(leaf.shape for leaf in _leaves(state))), []).append(number)
    answers: dict[int, Answer] = {}
    for numbers in alike.values():
        answers |= zip(numbers, _stepped(net, [given[number] for number in numbers]), strict=True)
    return [answers[number] for number in range(len(given))]


def advance(net: SequenceNetwork, streams: Mapping[Key, Generator[Request, Answer, Any]]) -> dict[Key, Any]:
    """Runs the steps of streams (`Stream.steps`) side by side to their ends, and gives what each returns."""
    waiting: dict[Key, Request] = {}
    returned: dict[Key, Any] = {}
    answers: Mapping[Key, Answer | None] = dict.fromkeys(streams)
    while answers:
        waiting = {}
        for key, answer in answers.items():
            try:
                waiting[key] = streams[key].send(answer)  # type: ignore[arg-type]  # the first is None, by Python's rule
            except StopIteration as end:
                returned[key] = end.value
        answers = dict(zip(waiting, step_together(net, list(waiting.values())), strict=True)) if waiting else {}
    return returned


def _started(net: SequenceNetwork, frame: Tensor) -> NetworkState:
    return net.init_state(len(frame), tuple(frame.shape[2:]) if frame.ndim > 3 else None)


def _stepped(net: SequenceNetwork, requests: Sequence[tuple[Tensor, NetworkState]]) -> list[Answer]:
    """As `step_together`, of requests with equal shapes."""
    frames = torch.cat([frame for frame, _ in requests])
    parts = zip(*(state for _, state in requests), strict=True)  # of each layer, that of all streams
    state = tuple(tuple(torch.cat(leaves) for leaves in zip(*part, strict=True)) for part in parts)
    out, following = net.step(frames, state)
    # copies, as a row would keep the whole batch in memory
    return [
        (out[row : row + 1].clone(), tuple(tuple(leaf[row : row + 1].clone() for leaf in part) for part in following))
        for row in range(len(requests))
    ]


def _leaves(state: NetworkState) -> list[Tensor]:
    return [leaf for part in state for leaf in part]
