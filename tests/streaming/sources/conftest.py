"""Fake cameras, and that nothing is left running."""

import pytest

from live_servers import await_end_of_reading, numbered
from prernn.streaming.sources import source as reader


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    await_end_of_reading()


@pytest.fixture
def play(monkeypatch):
    """Makes of lists a camera: each connection has the next list's items, which are times, errors to raise, events to
    wait for, or pairs of a time and a picture. Gives how often it was opened."""

    def start(*connections):
        opened = []

        def read_pictures(address, reading):
            items = connections[min(len(opened), len(connections) - 1)]
            opened.append(address)
            if not (items and isinstance(items[0], BaseException)):
                reading.on_open(False)
            for number, item in enumerate(items):
                if isinstance(item, BaseException):
                    raise item
                if hasattr(item, "wait"):
                    item.wait()
                    continue
                time, picture = item if isinstance(item, tuple) else (item, numbered(number))
                yield time, lambda picture=picture: picture

        monkeypatch.setattr(reader, "read_pictures", read_pictures)
        return opened

    return start
