"""Steps that many threads ask for: each gets its own answer, and one that fails takes no other with it."""

import threading

import pytest
import torch

import prernn
from equations import close
from exported_networks import KINDS, size_of, some_frames
from prernn.engines.opening import opened
from prernn.engines.together import SharedNetwork, Together, step_together
from prernn.streaming.stream import Stream
from small_cnns import ResidualNet, prepare, shake


@pytest.fixture
def together():
    made = []

    def make(net, **options):
        made.append(Together(opened(net), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def network():
    return shake(prernn.convert(prepare(ResidualNet()), cell="lstm")).eval()


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_those_of_single_steps(name):
    """Whatever the network: started streams beside new ones."""
    net = KINDS[name]().double()
    frames = some_frames(net, 1, 5, size_of(name))[0].unsqueeze(1)
    frames = frames if frames.dtype == torch.int64 else frames.double()
    with torch.inference_mode():
        states = [net.step(frames[0])[1], None, net.step(frames[1])[1], None]
        requests = list(zip(frames[1:], states, strict=True))
        close(step_together(net, requests), [net.step(*request) for request in requests])


def test_streams_of_many_threads_are_each_their_own(together):
    net, batches = network(), []
    one = together(net, threads=1, observe=lambda rows, seconds: batches.append(rows))
    videos = torch.randn(6, 15, 3, 8, 8, dtype=torch.float64)
    said, ready = {}, threading.Barrier(len(videos))

    def watch(number):
        stream = Stream(SharedNetwork(one))
        ready.wait()
        said[number] = torch.stack([stream(frame) for frame in videos[number]])

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(len(videos))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close(torch.stack([said[number] for number in range(len(videos))]), net(videos)[0].detach())
    assert sum(batches) == 6 * 15
    assert max(batches) <= 6


def test_what_waits_is_one_batch(together):
    net, batches, free, busy = network(), [], threading.Event(), threading.Event()
    one = together(net, observe=lambda rows, seconds: batches.append(rows), most=3)
    step = one.net.step

    def slow(frame, state):
        busy.set()
        free.wait()
        return step(frame, state)

    one.net.step = slow
    threads = [threading.Thread(target=one.step, args=(torch.randn(1, 3, 8, 8).double(), None)) for _ in range(6)]
    threads[0].start()
    busy.wait()
    for thread in threads[1:]:
        thread.start()
    while one._asked.qsize() < 5:
        pass
    free.set()
    for thread in threads:
        thread.join()
    assert batches == [1, 3, 2]


def test_a_request_that_fails_fails_alone(together):
    net = network()
    one = together(net)
    good, answers = torch.randn(1, 3, 8, 8).double(), {}

    def ask(name, frame):
        try:
            answers[name] = one.step(frame, None)
        except Exception as error:
            answers[name] = error

    batch = [("good", good), ("bad", torch.randn(1, 5, 8, 8).double()), ("also good", good)]
    threads = [threading.Thread(target=ask, args=given) for given in batch]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(answers["bad"], Exception)
    close(answers["good"][0], net.step(good)[0].detach())
    close(answers["also good"][0], net.step(good)[0].detach())


def test_a_shared_network_is_a_network(together):
    net = network()
    shared = SharedNetwork(together(net))
    assert opened(shared) is shared
    assert (shared.engine, shared.precision) == ("torch", "float32")
    assert shared.state_names == net.state_names
    assert shared.recurrent_layers == net.recurrent_layers
    close(shared.init_state(2), net.init_state(2))
    with pytest.raises(ValueError, match="the frame of one stream, got those of 2"):
        shared.step(torch.zeros(2, 3, 8, 8).double())
    with pytest.raises(ValueError, match="for openvino"):
        opened(shared, "openvino")
