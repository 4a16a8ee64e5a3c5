"""Bytes from clients: whatever they are, they become a picture, a hello, a state, or a ValueError in one line."""

import base64
import json
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equations import close
from prernn.serving.messages.hello import Hello, hello_of, packed_state, unpacked_state
from prernn.serving.messages.pictures import Raw, picture, stamped
from prernn.streaming.stream import Stream
from served import decoded, jpeg
from streamed_networks import network, pictures

EXAMPLES = int(os.environ.get("PRERNN_FUZZ", "60"))
"""Examples of each fuzz; an hour's worth by hand."""

fuzzed = settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES <= 10_000)  # by hand others each time
JPEG = jpeg(pictures(1, (40, 48))[0])


def tried(call, *arguments):
    """What a call gives, and the text of the ValueError that it raises instead."""
    try:
        return call(*arguments), None
    except ValueError as error:
        return None, str(error)


def upright(orientation):
    """A JPEG that says how it is to be turned."""
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00" + struct.pack(
        "<H", orientation
    )
    segment = exif + b"\x00" * 6
    return JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + JPEG[2:]


def test_a_jpeg_is_decoded_as_a_folders_frames_are(tmp_path):
    from prernn.media.image_folder import load

    for name, data in {"plain": JPEG, "turned": upright(6)}.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
        close(torch.from_numpy(picture(data, None, 10**6)), torch.from_numpy(load(tmp_path, tmp_path / f"{name}.jpg")))
    assert picture(upright(6), None, 10**6).shape == (48, 40, 3)
    np.testing.assert_array_equal(picture(JPEG, None, 10**6), decoded(JPEG))


def test_raw_frames():
    (shown,) = pictures(1, (4, 6))
    np.testing.assert_array_equal(picture(shown.tobytes(), Raw(4, 6), 100), shown)
    with pytest.raises(ValueError, match="expected 6 x 4 x 3 = 72 bytes, got 71"):
        picture(shown.tobytes()[1:], Raw(4, 6), 100)


@fuzzed
@given(st.data())
def test_damaged_jpegs(data):
    """Bytes changed, cut and put in; what still decodes is a picture within the limits."""
    damaged = bytearray(upright(data.draw(st.integers(0, 9))))
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "cut", "put"])):
            case "change":
                damaged[place] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[place : place + data.draw(st.integers(1, 50))]
            case "put":
                damaged[place:place] = data.draw(st.binary(max_size=20))
        if not damaged:
            return
    shown, error = tried(picture, bytes(damaged), None, 5000)
    if error is not None:
        assert "\n" not in error
        return
    assert shown.dtype == np.uint8
    assert shown.ndim == 3
    assert shown.shape[2] == 3
    assert shown.shape[0] * shown.shape[1] <= 5000


def test_a_jpeg_of_a_thousand_scans():
    end = JPEG.rindex(b"\xff\xd9")
    begin = JPEG.rindex(b"\xff\xda")
    with pytest.raises(ValueError, match="at most 100 scans, got 301"):
        picture(JPEG[:end] + 300 * JPEG[begin:end] + JPEG[end:], None, 10**6)


@fuzzed
@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(data):
    for raw in (None, Raw(2, 3)):
        shown, error = tried(picture, data, raw, 100)
        assert "expected" in error if shown is None else shown.shape[2] == 3
    got, error = tried(stamped, data)
    assert "time stamp" in error if got is None else np.isfinite(got[0]) and len(got[1]) == len(data) - 8


KEYS = st.sampled_from([*Hello.model_fields, "other"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["jpeg", "rgb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@fuzzed
@given(st.dictionaries(KEYS, VALUES, max_size=4) | VALUES, st.text(max_size=30))
def test_any_hello_is_one_or_refused(value, text):
    for given_text in (json.dumps(value), text):
        hello, error = tried(hello_of, given_text)
        raw, wrong = (None, error) if hello is None else tried(hello.raw, 1000)
        assert wrong or raw is None or raw.height * raw.width <= 1000
        assert wrong is None or (wrong and "\n" not in wrong)


def test_a_state_there_and_back():
    stream = Stream(network().float())
    stream(torch.zeros(3, 8, 8))
    (state,) = unpacked_state(base64.b64decode(packed_state([stream.state_dict()])), 1)
    close(state, stream.state_dict())
    stream.load_state_dict(state)


def loaded(data):
    """Puts a state, or bytes, into a stream, as the server does; gives whether it fitted."""
    stream = Stream(NET)
    stream(torch.zeros(3, 8, 8))
    before = stream.state_dict()
    try:
        (state,) = unpacked_state(data if isinstance(data, bytes) else base64.b64decode(data), 1)
        stream.load_state_dict(state)
    except ValueError:
        close(stream.state_dict(), before)
        return False
    stream(torch.zeros(3, 8, 8))
    return True


NET = network().float()


@fuzzed
@given(st.data())
def test_states_that_lie(data):
    """Names, shapes and types of others', and files whose bytes were changed: the stream is as it was, or goes on."""
    stream = Stream(NET)
    stream(torch.zeros(3, 8, 8))
    state = stream.state_dict()
    name = data.draw(st.sampled_from(sorted(state)))
    match data.draw(st.sampled_from(["shape", "type", "name", "bytes", "any"])):
        case "shape":
            assert not loaded(
                packed_state([state | {name: torch.zeros(data.draw(st.sampled_from([(), (1,), (2, 5)])))}])
            )
        case "type":
            kind = data.draw(st.sampled_from([torch.float64, torch.bool, torch.int8, torch.complex64]))
            fits = loaded(packed_state([state | {name: torch.zeros(state[name].shape).to(kind)}]))
            assert fits == kind.is_floating_point
        case "name":
            assert not loaded(
                packed_state(
                    [state | {data.draw(st.sampled_from(["x", "reset_age", "younger_x", ""])): state[name].clone()}]
                )
            )
        case "bytes":
            raw = bytearray(base64.b64decode(packed_state([state])))
            for _ in range(data.draw(st.integers(1, 8))):
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
            loaded(bytes(raw))
        case "any":
            loaded(data.draw(st.binary(max_size=20)))
