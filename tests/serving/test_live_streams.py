"""Live streams at a server: each client gets what it would get alone, whatever the others do."""

import contextlib
import json
import threading
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed

from prernn import client
from prernn.serving.mailbox import Mailbox
from prernn.serving.session import Session
from prernn.streaming.prediction import predict
from prernn.streaming.stream import Stream
from served import bare, decoded, gone, jpeg, said, served
from streamed_networks import LABELS, network, pictures


@pytest.fixture(scope="module")
def net():
    return network().float()


def alone(net, shown, **options):
    """Label and probability of each picture in a stream of its own."""
    stream = Stream(net, **options)
    rows = [predict([stream], index, index / 10, picture) for index, picture in enumerate(shown)]
    return [(row.label, pytest.approx(row.probability, abs=2e-4)) for row in rows]


def answers_of(rows):
    return [(row["label"], row["probability"]) for row in rows]


def rows_in(answers):
    return [row for answer in answers if answer["type"] == "frame" for row in answer["rows"]]


def test_a_client_gets_what_a_stream_alone_says(net):
    shown = [jpeg(picture) for picture in pictures(8)]
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", top=2) as stream:
        assert stream.started == {
            "type": "started",
            "stream": 0,
            "from": "zero",
            "labels": LABELS,
            "task": "action",
            "fps": None,
        }
        answers = [stream.ask(data) for data in shown]
        (end,) = stream.rest()
    assert answers_of(rows_in(answers)) == alone(net, [decoded(data) for data in shown])
    assert [(answer["message"], answer["frame"], answer["dropped"]) for answer in answers] == [
        (n, n, 0) for n in range(8)
    ]
    for row in rows_in(answers):
        assert row["top"][0] == [row["label"], row["probability"]]
        assert len(row["top"]) == 2
    assert end == {
        "type": "end",
        "rows": [],
        "received": 8,
        "answered": 8,
        "skipped": 0,
        "refused": 0,
        "held": 0,
        "dropped": 0,
        "clock": "",
    }


def test_raw_frames_and_times(net):
    """At half the rate of its frames a stream sees every second one."""
    shown = pictures(9, (20, 24))
    with served(net) as (address, _):
        hello = {"frames": "rgb", "width": 24, "height": 20, "times": True, "fps": 5.0, "drop": "none"}
        with client.connect(f"ws://{address}/stream", **hello) as stream:
            for number, picture in enumerate(shown):
                stream.send(picture, number / 10)
            answers = list(stream.rest())
    kinds = ["frame", "skipped"] * 4 + ["frame", "end"]
    assert [answer["type"] for answer in answers] == kinds
    assert [answer["message"] for answer in answers[:-1]] == list(range(9))
    assert answers_of(rows_in(answers)) == alone(net, shown[::2])
    assert answers[-1]["clock"] == "4 dropped"


def test_many_clients_at_once_are_each_their_own(net):
    """They come at different times, with different pictures, and one starts anew on the way."""
    videos, got = np.random.default_rng(0).integers(0, 256, (8, 12, 20, 24, 3), dtype=np.uint8), {}

    def follow(address, number):
        time.sleep(number / 50)
        hello = {"frames": "rgb", "width": 24, "height": 20, "drop": "none"}
        with client.connect(f"ws://{address}/stream", **hello) as stream:
            for place, picture in enumerate(videos[number]):
                if place == number:
                    stream.order(type="reset")
                stream.send(picture)
            got[number] = list(stream.rest())

    with served(net) as (address, server):
        threads = [threading.Thread(target=follow, args=(address, number)) for number in range(len(videos))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gone(server, "end", 8)
        counted = httpx.get(f"http://{address}/metrics").text
    for number, answers in got.items():
        expected = alone(net, videos[number][:number]) + alone(net, videos[number][number:])
        assert answers_of(rows_in(answers)) == expected
        assert sum(answer["type"] == "reset" for answer in answers) == 1
    assert 'prernn_frames_total{outcome="answered"} 96.0' in counted
    assert "prernn_clients 0.0" in counted


def test_the_reset_is_the_clients_choice(net):
    shown = [jpeg(picture) for picture in pictures(6)]
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", reset="every:4") as stream:
        answers = [stream.ask(data) for data in shown]
    assert answers_of(rows_in(answers)) == alone(net, [decoded(data) for data in shown], reset="every:4")


def test_a_state_goes_on_after_the_server_has_died(net):
    shown = [jpeg(picture) for picture in pictures(6)]
    with served(net) as (address, _), client.connect(f"ws://{address}/stream") as stream:
        answers = [stream.ask(data) for data in shown[:3]]
        state = stream.state()
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", state=state) as stream:
        assert stream.started["from"] == "state"
        answers += [stream.ask(data) for data in shown[3:]]
    assert answers_of(rows_in(answers)) == alone(net, [decoded(data) for data in shown])


@pytest.fixture
def slow(monkeypatch, net):
    """The network, a tenth of a second a step."""
    from prernn.engines import together

    step = together._stepped
    monkeypatch.setattr(together, "_stepped", lambda *given: (time.sleep(0.1), step(*given))[1])
    return net


def test_who_sends_faster_than_is_answered_loses_the_oldest(slow):
    shown = [jpeg(picture) for picture in pictures(30)]
    with served(slow, limits={"queue": 2}) as (address, _), client.connect(f"ws://{address}/stream") as stream:
        for data in shown:
            stream.send(data)
        answers = list(stream.rest())
    end = answers.pop()
    assert end["received"] == 30
    assert end["dropped"] > 20
    assert end["answered"] + end["dropped"] == 30
    assert sorted(answer["message"] for answer in answers) == list(range(30))  # one answer each
    followed = [answer["message"] for answer in answers if answer["type"] == "frame"]
    assert followed == sorted(set(followed))
    assert followed[-2:] == [28, 29]  # the newest are kept
    assert sum(answer["type"] == "dropped" for answer in answers) == end["dropped"]


def test_nothing_is_dropped_where_that_is_asked(slow):
    shown = [jpeg(picture) for picture in pictures(12)]
    waits = {"drop": "none"}
    with served(slow, limits={"queue": 2}) as (address, _), client.connect(f"ws://{address}/stream", **waits) as stream:
        for data in shown:
            stream.send(data)
        answers = list(stream.rest())
    assert [answer["message"] for answer in answers[:-1]] == list(range(12))
    assert answers[-1]["dropped"] == 0


def test_frames_above_the_limit_are_counted(net):
    shown = jpeg(pictures(1)[0])
    with served(net, limits={"fps": 5.0}) as (address, _), client.connect(f"ws://{address}/stream") as stream:
        for _ in range(20):
            stream.send(shown)
        *_, end = stream.rest()
    assert end["received"] == 20
    assert end["dropped"] >= 10
    assert end["answered"] + end["dropped"] == 20


def test_frames_that_are_none_are_refused_one_by_one(net):
    shown = [jpeg(picture) for picture in pictures(4)]
    huge = jpeg(np.zeros((1100, 1000, 3), np.uint8))
    bad = [b"", b"no picture", shown[0][: len(shown[0]) // 2], huge, shown[0].replace(b"\xff\xda", b"\xff\xdb")]
    with served(net, limits={"pixels": 1_000_000}) as (address, _), client.connect(f"ws://{address}/stream") as stream:
        answers = []
        for number, data in enumerate(shown):
            answers.append(stream.ask(data))
            refused = stream.ask(bad[number])
            assert (refused["type"], refused["message"]) == ("refused", 2 * number + 1)
        assert "expected a picture of at most 1000000 pixels, got 1000 x 1100" in refused["error"]
        assert stream.ask(bad[4])["type"] == "refused"
        stream.order(type="sing")
        assert stream.receive()["error"] == 'expected {"type": "reset"}, "state" or "end"'
        (end,) = stream.rest()
    assert answers_of(rows_in(answers)) == alone(net, [decoded(data) for data in shown])
    assert (end["answered"], end["refused"]) == (4, 5)


def test_who_sends_nothing_but_garbage_is_sent_away(net):
    with served(net, limits={"refusals": 3}) as (address, server), bare(address) as socket:
        assert said(socket)["type"] == "started"
        for _ in range(3):
            socket.send(b"\x00" * 100)
        assert [said(socket)["type"] for _ in range(3)] == ["refused"] * 3
        assert said(socket) == {"type": "error", "error": "3 frames in a row could not be used"}
        with pytest.raises(ConnectionClosed):
            socket.recv(20)
        assert socket.protocol.close_code == 1008
        gone(server, "refused")


def test_who_is_silent_is_sent_away(net):
    with served(net, limits={"idle": 0.3, "hello": 0.3}) as (address, server):
        with bare(address) as socket:
            assert said(socket)["type"] == "started"
            assert said(socket) == {"type": "error", "error": "nothing came for 0.3 s"}
        with bare(address, None) as socket:
            assert said(socket) == {"type": "error", "error": "expected a hello within 0.3 s"}
        gone(server, "idle")


@pytest.mark.parametrize(
    ("reasons", "kept"), [(["idle", "left"], "idle"), (["end", "unread"], "unread"), (["left"], "left")]
)
def test_the_reason_stays_while_the_thread_has_not_reported_it(reasons, kept):
    session = Session.__new__(Session)
    session._ending, session.mailbox = "", Mailbox(1, drops=False)
    for why in reasons:
        session.end(why, at_once=True)
    assert session._ending == kept


def test_who_does_not_read_is_sent_away(net):
    with served(net, limits={"unread": 5, "fps": 1e4}) as (address, server), bare(address) as socket:
        with pytest.raises(ConnectionClosed):
            send_for_ever(socket, json.dumps({"type": "x" * 500}))
        gone(server, "unread")


def send_for_ever(socket, message):
    while True:
        socket.send(message)


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ("no json", "hello: Invalid JSON"),
        ("[]", "hello: Input should be an object"),
        ('{"frame": "jpeg"}', "frame: Extra inputs are not permitted"),
        ('{"two\\nlines": 1}', "'two\\nlines': Extra inputs are not permitted"),
        ('{"frames": "png"}', "frames: Input should be 'jpeg' or 'rgb'"),
        ('{"frames": "rgb"}', "expected width and height of rgb frames"),
        ('{"frames": "rgb", "width": 100000, "height": 100000}', "expected a picture of at most 9000000 pixels"),
        ('{"frames": "rgb", "width": 3200, "height": 10}', "at most 16 times as long as wide"),
        ('{"width": 10}', "expected no width and height of jpeg frames"),
        ('{"reset": "sometimes"}', "reset: expected never"),
        ('{"fps": 0}', "fps"),
        ('{"state": "AAAA"}', "state: Input should be a valid boolean"),
        ('{"fps": 100}', "fps: expected at most the limit of 60 frames a second, got 100"),
        ('{"top": ' + "1" * 5000 + "}", "expected a hello of at most 4096 characters"),
        (b"\x00", "expected a hello as JSON first, got a frame"),
    ],
)
def test_a_hello_that_is_none(net, hello, message):
    with served(net) as (address, _), bare(address, hello) as socket:
        answer = said(socket)
        assert answer["type"] == "error"
        assert message in answer["error"]
        with pytest.raises(ConnectionClosed):
            socket.recv(20)


def test_a_state_that_is_none(net):
    with served(net) as (address, _):
        for state, message in ((b"AAAA", "expected one that this server gave"), ("{}", "as a binary message")):
            with bare(address, '{"state": true}') as socket:
                socket.send(state)
                assert message in said(socket)["error"]


def test_a_page_of_another_site_is_not_let_in(net):
    from websockets.sync.client import connect

    with served(net) as (address, _):
        for origin, kind in ((f"http://{address}", "started"), ("http://elsewhere.example", "error")):
            with connect(f"ws://{address}/stream", origin=origin) as socket, contextlib.suppress(ConnectionClosed):
                if kind == "started":
                    socket.send("{}")
                assert said(socket)["type"] == kind
        assert (
            httpx.post(f"http://{address}/predict", headers={"Origin": "http://elsewhere.example"}).status_code == 403
        )


def test_time_stamps_can_not_stop_the_clock(net):
    """Stamps so large that a tick more is none; and a jump, whose ticks are held, by one who is gone."""
    shown = jpeg(pictures(1)[0])
    with served(net) as (address, server):
        with client.connect(f"ws://{address}/stream", times=True, fps=50.0) as stream:
            for time_s in (1e17, float("nan"), -2e9):
                stream.send(shown, time_s)
                assert "expected a time stamp of at most 1e+09 seconds" in stream.receive()["error"]
            stream.send(shown, 0.0)
            stream.send(shown, 9.0)
            stream.receive()
        gone(server, "left")
        held = server.service.metrics.frames.labels("held")._value.get()
        time.sleep(0.3)
        assert server.service.metrics.frames.labels("held")._value.get() == held < 440
        assert not server.service._places


def test_ticks_that_are_held_are_answers_of_their_own(net):
    shown = [jpeg(picture) for picture in pictures(2)]
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", times=True, fps=10.0) as stream:
        assert stream.ask(shown[0], 0.0)["frame"] == 0
        answer = stream.ask(shown[1], 0.5)
        assert (answer["message"], answer["frame"], answer.get("held")) == (1, 5, None)
        (end,) = stream.rest()
    assert (end["answered"], end["held"], end["clock"]) == (2, 4, "4 held")


def test_a_reset_forgets_the_clock_too(net):
    shown = [jpeg(picture) for picture in pictures(3)]
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", times=True, fps=10.0) as stream:
        stream.send(shown[0], 0.0)
        stream.send(shown[1], 0.05)
        stream.order(type="reset")
        stream.send(shown[2], 0.2)
        answers = list(stream.rest())
    assert [(answer["type"], answer.get("message")) for answer in answers] == [
        ("frame", 0),
        ("skipped", 1),
        ("reset", None),
        ("frame", 2),
        ("end", None),
    ]
    assert answers_of(rows_in(answers)) == alone(net, [decoded(shown[0])]) + alone(net, [decoded(shown[2])])


def test_who_ends_and_does_not_read_gives_his_place_back(net, monkeypatch):
    with served(net, limits={"idle": 0.5, "unread": 10**6, "fps": 1e4}) as (address, server), bare(address) as socket:
        shown = jpeg(pictures(1)[0])
        for _ in range(200):
            socket.send(shown)
        socket.send('{"type": "end"}')
        gone(server, "end")
        assert not server.service._places


def test_a_message_that_is_too_long_ends_the_connection(net):
    with served(net, limits={"message_bytes": 1000}) as (address, server), bare(address) as socket:
        assert said(socket)["type"] == "started"
        socket.send(b"\x00" * 2000)
        with pytest.raises(ConnectionClosed):
            socket.recv(20)
        assert socket.protocol.close_code == 1009
        gone(server, "left")


def test_there_is_room_for_so_many(net):
    with served(net, limits={"clients": 2}) as (address, server):
        url = f"ws://{address}/stream"
        with client.connect(url) as first, client.connect(url):
            with pytest.raises(ConnectionError, match="has its 2 clients"), client.connect(url):
                pass
            list(first.rest())
            gone(server, "end")
            with client.connect(url) as third:
                assert third.started["stream"] == 2


def test_a_token(net):
    with served(net, token="open sesame") as (address, _):
        url = f"ws://{address}/stream"
        for wrong in ({}, {"token": "sesame"}):
            with pytest.raises(ConnectionError, match="expected the server's token"), client.connect(url, **wrong):
                pass
        with client.connect(url, token="open sesame") as stream:
            assert stream.started["type"] == "started"
        with bare(address, '{"token": "open sesame"}') as socket:  # as a browser, which can't send headers
            assert said(socket)["type"] == "started"
        assert httpx.get(f"http://{address}/healthz").status_code == 200
        for method, path in (("GET", "/metrics"), ("POST", "/predict")):
            assert httpx.request(method, f"http://{address}{path}").status_code == 401
        assert (
            httpx.get(f"http://{address}/metrics", headers={"Authorization": "Bearer open sesame"}).status_code == 200
        )


def test_a_client_that_was_sent_away_learns_why_from_whatever_it_does_next(net):
    shown = jpeg(pictures(1)[0])
    with served(net, limits={"idle": 0.3}) as (address, server), client.connect(f"ws://{address}/stream") as stream:
        gone(server, "idle")
        time.sleep(0.2)
        with pytest.raises(ConnectionError, match=r"nothing came for 0\.3 s"):
            stream.send(shown)


def test_where_there_is_no_stream_is_a_connection_error(net):
    with (
        served(net) as (address, _),
        pytest.raises(ConnectionError, match="40"),
        client.connect(f"ws://{address}/absent"),
    ):
        pass


def test_a_stop_answers_what_waits(slow):
    """And lets nobody in any more."""
    shown = [jpeg(picture) for picture in pictures(4)]
    with served(slow) as (address, server), client.connect(f"ws://{address}/stream") as stream:
        for data in shown:
            stream.send(data)
        stream.receive()
        server.stop()
        answers = [stream.receive()]
        with pytest.raises(ConnectionError), client.connect(f"ws://{address}/stream"):
            pass
        while answers[-1]["type"] != "end":
            answers.append(stream.receive())
    assert answers[-1]["answered"] == 4
    assert [answer["message"] for answer in answers[:-1]] == [1, 2, 3]


def test_gestures_are_events():
    """Rows of a task that answers with events, in a server as alone."""
    from prernn.conversion.recipe import KeptTask
    from prernn.tasks.gesture.watcher import GestureWatcher

    net = network().float()
    with torch.no_grad():
        net.cnn.fc.weight.mul_(40)  # sure of itself, so that there are events
    net.recipe = replace(net.recipe, task=KeptTask("gesture", {}))
    shown = [jpeg(picture) for picture in pictures(40)]
    watcher = GestureWatcher(net)
    expected = [row for n, data in enumerate(shown) for row in watcher.see(n, n / 10, decoded(data))] + watcher.finish()
    with served(net) as (address, _), client.connect(f"ws://{address}/stream", times=True, drop="none") as stream:
        for number, data in enumerate(shown):
            stream.send(data, number / 10)
        rows = [row for answer in stream.rest() for row in answer["rows"]]
    assert expected
    strip = [{key: value for key, value in row.items() if key != "probability"} for row in rows]
    assert strip == [{key: value for key, value in row.items() if key != "probability"} for row in expected]
