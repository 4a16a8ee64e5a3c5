"""What waits for a stream's thread: in order, at most so much, and nothing lost that is not counted."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from prernn.serving.limits import Allowance
from prernn.serving.mailbox import Arrived, Mailbox


@given(st.lists(st.sampled_from(["frame", "reset", "take"]), max_size=60), st.integers(1, 4))
def test_frames_are_taken_in_order_or_counted_as_dropped(actions, size):
    mailbox, taken, put, orders = Mailbox(size, drops=True), [], 0, 0
    waiting = []  # as it should be
    for action in actions:
        if action == "frame":
            if sum(isinstance(item, int) for item in waiting) == size:
                waiting.remove(next(item for item in waiting if isinstance(item, int)))
            waiting.append(put)
            mailbox.put(Arrived(put, 0.0, b""))
            put += 1
        elif action == "reset":
            waiting.append("reset")
            mailbox.put("reset")
            orders += 1
        elif waiting:
            item = mailbox.take()
            taken.append(item.number if isinstance(item, Arrived) else item)
            assert taken[-1] == waiting.pop(0)
    mailbox.end()
    while (item := mailbox.take()) is not None:
        taken.append(item.number if isinstance(item, Arrived) else item)
    numbers = [item for item in taken if isinstance(item, int)]
    assert numbers == sorted(numbers)
    assert len(numbers) + mailbox.dropped == put
    assert taken.count("reset") == orders
    assert put == 0 or numbers[-1] == put - 1


@given(st.integers(1, 5), st.integers(1, 30))
def test_who_may_not_drop_waits_for_room(size, count):
    room = threading.Event()
    mailbox, got = Mailbox(size, drops=False, on_room=room.set), []

    def take():
        while (item := mailbox.take()) is not None:
            got.append(item.number)

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(count):
        while mailbox.full:
            room.clear()
            if mailbox.full:
                room.wait(5)
        mailbox.put(Arrived(number, 0.0, b""))
    mailbox.end()
    thread.join()
    assert got == list(range(count))
    assert mailbox.dropped == 0


def test_an_end_at_once_gives_nothing_more():
    mailbox = Mailbox(2, drops=True)
    mailbox.put(Arrived(0, 0.0, b""))
    mailbox.end(at_once=True)
    assert mailbox.take() is None
    assert mailbox.put(Arrived(1, 0.0, b"")) is None
    assert mailbox.stopped
    assert mailbox.take() is None


@given(st.floats(0.1, 1000), st.lists(st.tuples(st.floats(0, 3), st.floats(0, 500)), max_size=40))
def test_an_allowance_is_kept_on_average(rate, steps):
    now, given_out = 0.0, 0.0
    allowance = Allowance(rate, lambda: now)
    for wait, amount in steps:
        now += wait
        needed = allowance.take(amount)
        assert needed >= 0
        if not needed:
            given_out += amount
            assert given_out <= max(1.0, rate) + rate * now + amount + 1e-6  # of the last one more may be owed
        else:
            now += needed
            assert allowance.take(amount) == 0
            given_out += amount
