"""What becomes of frames that come faster than they are taken: laws of the queue, without a source."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prernn.streaming.sources.policy import BY_KIND, Policy, drop_policy, pause
from prernn.streaming.sources.reading import FrameQueue, start_reading

POLICIES = st.sampled_from(["oldest", "none"]) | st.integers(1, 5).map(lambda n: f"every:{n}")


@pytest.mark.parametrize("text", ["newest", "", "every", "every:0", "every:-1", "every:1.5", "every:٣", None])
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match="drop: expected none, oldest or every:N"):
        drop_policy(text)


@given(tries=st.integers(0, 10**6), first=st.floats(0.01, 10), most=st.floats(0.01, 100))
def test_pauses_grow_up_to_a_limit(tries, first, most):
    assert pause(tries, (first, most)) <= pause(tries + 1, (first, most)) <= most
    assert pause(0, (first, most)) == min(first, most)


def test_every_kind_of_source_has_defaults_that_can_be_read():
    assert set(BY_KIND) == {"file", "folder", "camera", "stream", "pipe"}
    for defaults in BY_KIND.values():
        drop_policy(defaults.drop)


def picture(number):
    return lambda: np.full((1, 1, 3), number, np.uint8)


def taken(queue):
    return queue.take(0.0, lambda: False)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("policy", ["oldest", "none", "every:1", "every:2", "every:5"])
@given(runs=st.lists(st.integers(-4, 6), max_size=12))
def test_laws_of_the_queue(policy, size, runs):
    """In order, nothing twice; the newest is kept; what was read was taken, waits, or was dropped by the policy.

    Runs are of frames that come one after the other, or with a minus that are taken.
    """
    steps = ["put" if run > 0 else "take" for run in runs for _ in range(abs(run))]
    chosen = drop_policy(policy)
    queue, seen, read = FrameQueue(size, chosen), [], 0
    waiting = []  # a model of it: the numbers that wait
    for step in steps:
        if step == "put":
            wanted = read % chosen.every == 0
            if wanted and chosen.waits and len(waiting) == size:
                continue  # it would wait, as another thread does below
            assert queue.put(read / 10, picture(read % 256))
            waiting = [*waiting, read][-size:] if wanted else waiting
            read += 1
        elif (frame := taken(queue)) is None:
            assert not waiting
        else:
            seen.append(frame.number)
            assert frame.number == waiting.pop(0)
            assert (frame.time, frame.picture[0, 0, 0]) == (frame.number / 10, frame.number % 256)
    assert queue.read == read
    rest = [frame.number for frame in iter(lambda: taken(queue), None)]
    assert rest == waiting
    assert seen + rest == sorted(set(seen + rest))
    if policy == "oldest" and read:
        assert (seen + rest)[-1] == read - 1
    if chosen.waits:
        assert seen + rest == list(range(0, read, chosen.every))


@given(policy=POLICIES, size=st.integers(1, 3), count=st.integers(0, 40), slow=st.sampled_from([0.0, 0.0005]))
def test_laws_hold_between_two_threads(policy, size, count, slow):
    queue = FrameQueue(size, drop_policy(policy))

    def pictures():
        for number in range(count):
            yield number / 10, picture(number)

    thread = start_reading(pictures, queue, "numbers")
    seen = []
    while (frame := queue.take(5.0, lambda: False)) is not None:
        seen.append(frame.number)
        time.sleep(slow)
    thread.join(5)
    assert (queue.read, queue.ended, queue.error) == (count, True, None)
    assert seen == sorted(set(seen))
    if policy == "oldest":
        assert seen[-1:] == [count - 1][:count]
    else:
        assert seen == list(range(0, count, drop_policy(policy).every))


def test_a_full_queue_makes_the_reader_wait():
    made, queue = [], FrameQueue(2, Policy())

    def pictures():
        for number in range(10):
            made.append(number)
            yield number / 10, picture(number)

    start_reading(pictures, queue, "numbers")
    time.sleep(0.1)
    assert made == [0, 1, 2]
    for number in range(10):
        assert queue.take(5.0, lambda: False).number == number


def test_frames_that_the_policy_leaves_out_are_not_made():
    made, queue = [], FrameQueue(10, drop_policy("every:3"))
    for number in range(9):
        queue.put(number / 10, lambda number=number: (made.append(number), picture(0)())[1])
    assert made == [0, 3, 6]


def test_a_reader_that_waited_for_room_is_not_taken_for_dead():
    """A network that needs longer for a frame than the source may be silent."""
    queue = FrameQueue(1, Policy())

    def pictures():
        for number in range(4):
            yield number / 10, picture(number)

    start_reading(pictures, queue, "numbers")
    for number in (0, 2):
        time.sleep(0.3)
        assert queue.take(0.1, lambda: False).number == number
        assert queue.take(0.1, lambda: False).number == number + 1  # the reader needs a moment for it


@pytest.mark.parametrize("policy", ["oldest", "none", "every:2"])
def test_a_closed_queue_lets_the_reader_go_and_takes_nothing(policy):
    closed, queue = threading.Event(), FrameQueue(1, drop_policy(policy))

    def pictures():
        try:
            for number in range(10**9):
                yield number / 10, picture(0)
        finally:
            closed.set()

    thread = start_reading(pictures, queue, "numbers")
    assert queue.take(5.0, lambda: False) is not None
    queue.close()
    thread.join(5)
    assert not thread.is_alive()
    assert closed.is_set()
    read = queue.read
    assert not queue.put(0.0, picture(0))
    assert taken(queue) is None
    assert queue.read == read


def test_an_error_comes_after_the_frames_before_it():
    def pictures():
        yield 0.0, picture(0)
        yield 0.1, picture(1)
        raise KeyError("reader")

    queue = FrameQueue(4, Policy())
    start_reading(pictures, queue, "numbers").join(5)
    assert [taken(queue).number, taken(queue).number, taken(queue)] == [0, 1, None]
    assert isinstance(queue.error, KeyError)
