"""The page in a real Chromium: a camera that plays a file, an upload, a token; and the network in the browser alone.

Needs Debian's ``chromium`` and ``pip install playwright``, which need not fetch a browser of its own.
"""

import base64
import functools
import http.server
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import prernn
from prernn.media.encoding import write_video
from prernn.media.transforms import TransformSpec, frame_transform
from prernn.serving.page.static import runtime_files, write_static
from prernn.streaming.stream import Stream
from served import served
from streamed_networks import LABELS, SPEC, network, pictures

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
LOOKS = 30_000
"""Milliseconds that something may take to show on the page."""


def camera_file(path, count=20, size=(48, 64)):
    """A film as Chromium's fake camera plays it, YUV4MPEG2: it gets brighter."""
    height, width = size
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode())
        for value in np.linspace(20, 230, count):
            file.write(b"FRAME\n" + bytes([int(value)]) * (height * width) + bytes([128]) * (height * width // 2))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    film = camera_file(tmp_path_factory.mktemp("film") / "film.y4m")
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    arguments = ["--no-sandbox", *fake, f"--use-file-for-fake-video-capture={film}"]
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture
def page(browser):
    """A page whose errors, those of its security policy among them, are the test's."""
    with browser.new_context(color_scheme="light") as context:
        page, said = context.new_page(), []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(LOOKS)
        yield page
        assert said == []


def sound_alone(path):
    """A phone's video with sound, of which a browser plays the sound alone: it has no decoder for the picture."""
    with av.open(str(path), "w") as container:
        picture, sound = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=44100)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 3 * 44100), np.float32), "fltp", "mono")
        silence.sample_rate = 44100
        shown = [av.VideoFrame.from_ndarray(image) for image in pictures(30, (48, 64))]
        for stream, frames in ((picture, shown), (sound, [silence])):
            for frame in [*frames, None]:
                container.mux(stream.encode(frame))


def replaced_rate(net, rate):
    net.recipe = replace(net.recipe, rate=rate)
    return net


def until(page, element, words):
    playwright.expect(page.locator(element)).to_contain_text(words, timeout=LOOKS)


def test_a_camera(page):
    """Answers come, labels have bars, units have a strip; the state starts anew; colors change; it stops."""
    with served(network().float(), page=True) as (address, server):
        page.goto(f"http://{address}/")
        until(page, "#status", "Ready")
        page.click("#camera")
        until(page, "#rate", "a second")
        until(page, "#scale", "layer 0 in")
        assert page.locator("#bars li").count() == len(LABELS)
        assert page.inner_text("#now") in LABELS
        assert page.inner_text("#dropped").endswith("0 there")
        page.click("#reset")
        until(page, "#status", "The state was reset")
        page.select_option("#shown", "level")
        until(page, "#scale", "Mean |h(t)| of")
        before = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
        page.click("#theme")
        assert page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor") != before
        page.click("#stop")
        until(page, "#status", "Stopped")
        assert page.locator("#reset").is_disabled()
        for _ in range(100):
            if not server.service._places:
                break
            page.wait_for_timeout(50)
        assert server.service.metrics.left.labels("left")._value.get() == 1


def test_a_camera_whose_pictures_come_before_it_says_that_it_plays(page):
    """They have a time: without one the clock would tick at each refresh of the screen."""
    late = """() => {
        const video = document.getElementById("video"), play = video.play.bind(video);
        video.play = async () => { await play(); await new Promise((done) => setTimeout(done, 500)); };
    }"""
    with served(replaced_rate(network().float(), 4.0), page=True) as (address, _):
        page.goto(f"http://{address}/")
        until(page, "#status", "Ready")
        page.evaluate(late)
        page.click("#camera")
        page.wait_for_timeout(3000)
        until(page, "#rate", "a second")
        assert page.inner_text("#dropped").endswith("0 there")  # none was refused
        assert float(page.inner_text("#rate").split()[0]) < 6


def test_an_upload(page, tmp_path):
    write_video(tmp_path / "clip.mp4", pictures(40, (48, 64)), 10)
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with served(network().float(), page=True) as (address, server):
        page.goto(f"http://{address}/")
        until(page, "#status", "Ready")
        page.set_input_files("#file", tmp_path / "none.mp4")
        until(page, "#status", "none.mp4: this browser can't play it")
        sound_alone(tmp_path / "phone.mov")
        page.set_input_files("#file", tmp_path / "phone.mov")
        until(page, "#status", "phone.mov: this browser can't play it")
        assert server.service.metrics.frames.labels("answered")._value.get() == 0
        page.set_input_files("#file", tmp_path / "clip.mp4")
        until(page, "#rate", "a second")
        page.wait_for_function("() => document.getElementById('video').ended")
        answered = server.service.metrics.frames.labels("answered")._value.get()
        assert answered > 10
        assert page.inner_text("#now") in LABELS


def test_a_token(page):
    with served(network().float(), page=True, token="sesame") as (address, _):
        page.goto(f"http://{address}/")
        until(page, "#status", "requires its token")
        assert page.locator("#camera").is_disabled()
        for token, words in (("wrong", "expected the server's token, got another"), ("sesame", "action")):
            page.fill("#token", token)
            page.press("#token", "Enter")
            until(page, "#status", words)
        assert page.locator("#ask").is_hidden()
        assert page.locator("#camera").is_enabled()


def test_a_server_that_is_slow_or_stops(page, monkeypatch):
    """Frames are left out rather than late; when it has gone the page says so, and goes on with the next one."""
    from prernn.engines import together

    step = together._stepped
    monkeypatch.setattr(together, "_stepped", lambda *given: (time.sleep(0.3), step(*given))[1])
    with served(network().float(), page=True) as (address, _):
        page.goto(f"http://{address}/")
        until(page, "#status", "Ready")
        page.click("#camera")
        until(page, "#rate", "a second")
        page.wait_for_timeout(2000)
        here, there = (int(part.split()[0]) for part in page.inner_text("#dropped").split(", "))
        assert here > 10
        assert there == 0
        assert float(page.inner_text("#round").split()[0]) < 2000  # two frames wait, of 0.3 s each, and no more
    until(page, "#status", "Start again")
    assert page.locator("#stop").is_disabled()


CLOCK = """async () => {
  const { Clock } = await import("/source.js");
  const ticks = (fps, times, most) => {
    const clock = new Clock(fps, most);
    return [times.filter((time) => clock.tick(time)), clock.late];
  };
  const every = (step, count) => Array.from({ length: count }, (_, i) => i * step);
  return {
    slower: ticks(10, every(0.05, 9)),
    gap: ticks(10, [0, 0.1, 0.55, 0.6]),
    back: ticks(10, [5, 5.1, 1, 1.05, 1.1]),
    most: ticks(100, every(0.01, 20), 10)[0].length,
  };
}"""


def test_the_clock_of_the_page(browser):
    with browser.new_context(bypass_csp=True) as context, served(network().float(), page=True) as (address, _):
        page = context.new_page()
        page.goto(f"http://{address}/")
        found = page.evaluate(CLOCK)
    assert found["slower"] == [pytest.approx([0, 0.1, 0.2, 0.3, 0.4]), 0]
    assert found["gap"] == [[0, 0.1, 0.55, 0.6], 3]  # those at 0.2, 0.3 and 0.4 s
    assert found["back"] == [[5, 5.1, 1, 1.1], 0]
    assert found["most"] == 2  # a limit of 10 a second, not quite taken


VIEW = """async () => {
  const { Bars, TimeLine, drawFace } = await import("/view.js");
  const canvas = document.createElement("canvas");
  const color = (x, y) => Array.from(canvas.getContext("2d").getImageData(x, y, 1, 1).data);
  const face = { points: [[10, 20], [50, 30]], box: [5, 5, 60, 40], tracked: true };
  drawFace(canvas, { width: 64, height: 48 }, face);
  const drawn = [color(10, 20), color(50, 30), color(30, 20)];
  drawFace(canvas, { width: 64, height: 48 }, { points: null });
  const [list, log] = [document.createElement("ol"), document.createElement("ol")];
  const line = new TimeLine(document.getElementById("line"), log);
  line.moment(0.5, "rest", 0.9);
  const seen = (rows) => (rows.forEach((row) => line.event(row)), Array.from(log.children, (item) => item.textContent));
  const events = [
    seen([{ event: "begin", label: "wave", begin_s: 1, end_s: null, command: "play" }]),
    seen([{ event: "end", label: "wave", begin_s: 1, end_s: 2.5 }]),
    seen([{ event: "begin", label: "nod", start: 3, end: null }, { event: "end", label: "nod", start: 3, end: 4 }]),
  ];
  line.draw();
  const bars = new Bars(list);
  const words = () => Array.from(list.children, (row) => row.textContent);
  bars.begin(["a", "b"]);
  bars.show([["b", 0.75], ["a", 0.25]]);
  const few = words();
  bars.begin("abcdefghijkl".split(""));
  bars.show([["k", 0.5], ["c", 0.2]]);
  return { drawn, gone: color(10, 20), events, spans: line.spans.length, few, many: words().slice(0, 2) };
}"""


def test_what_is_drawn(browser):
    """Points and box of a face, and nothing without; events once each, with their command; bars in their places."""
    with browser.new_context(bypass_csp=True) as context, served(network().float(), page=True) as (address, _):
        page = context.new_page()
        page.goto(f"http://{address}/")
        found = page.evaluate(VIEW)
    assert found["drawn"] == [[255, 255, 255, 255]] * 2 + [[0, 0, 0, 0]]
    assert found["gone"] == [0, 0, 0, 0]
    wave, nod = "wave: 1.00 s to 2.50 s, play", "nod: 3.00 s to 4.00 s"
    assert found["events"] == [["wave: 1.00 s to now, play"], [wave], [nod, wave]]
    assert found["spans"] == 2  # the label of a moment has gone, as there are events
    assert found["few"] == ["a25 %", "b75 %"]
    assert found["many"] == ["k50 %", "c20 %"]


def test_the_example_compares(site, tmp_path):
    write_video(tmp_path / "clip.mp4", pictures(6, (48, 64)), 10)
    script = Path(__file__).parents[2] / "examples" / "compare_page.py"
    command = [sys.executable, script, tmp_path / "model.safetensors", tmp_path / "clip.mp4"]
    told = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    assert "browser from python, 6 frames: outputs" in told
    assert "another best label in 0\njpeg" in told


def test_the_example_takes_a_picture(tmp_path):
    from PIL import Image

    path = tmp_path / "model.safetensors"
    cnn = prernn.backbone("small_vgg", width=2, units=16, size=16)
    net = prernn.convert(cnn, "fc6", cell="gru", outputs=5).eval()
    net.recipe = replace(net.recipe, transform=SPEC | {"size": 16}, labels=LABELS, rate=10.0)
    prernn.save(net, path)
    write_video(tmp_path / "clip.mp4", pictures(15, (48, 64)), 10)
    script = Path(__file__).parents[2] / "examples" / "photograph_page.py"
    command = [sys.executable, script, path, tmp_path / "page.png", tmp_path / "clip.mp4"]
    subprocess.run(command, check=True, timeout=120)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == 1000
        assert len(picture.getcolors()) > 50


def rgba(picture):
    return base64.b64encode(np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]).tobytes()).decode()


TRANSFORM = """async ({ spec, shown }) => {
  const { transformed } = await import("/transform.js");
  const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  return shown.map(([text, width, height]) => Array.from(transformed(bytes(text), width, height, spec)));
}"""


def test_the_transform_in_the_browser_is_that_of_python(browser):
    """Larger, smaller, upright, square, odd, with a crop, in grey: to the last level of 255."""
    shown = [pictures(1, size)[0] for size in ((20, 24), (48, 64), (64, 48), (31, 31), (97, 55), (8, 30), (7, 9))]
    specs = [SPEC, SPEC | {"resize": 11}, SPEC | {"size": 16, "resize": 19, "mean": [0.5], "std": [0.25]}]
    specs += [SPEC | {"grey": True}]
    sent = [[rgba(picture), picture.shape[1], picture.shape[0]] for picture in shown]
    with browser.new_context(bypass_csp=True) as context, served(network().float(), page=True) as (address, _):
        page = context.new_page()
        page.goto(f"http://{address}/")
        got = [page.evaluate(TRANSFORM, {"spec": spec, "shown": sent}) for spec in specs]
    for values, spec in zip(got, specs, strict=True):
        known = TransformSpec.from_dict(spec)
        std = torch.tensor(known.std).view(-1, 1, 1)
        for own, picture in zip(values, shown, strict=True):
            expected = frame_transform(known)(picture)
            levels = (torch.tensor(own).view_as(expected) - expected).abs() * std * 255
            assert float(levels.max()) < 0.01, (spec, picture.shape)


@pytest.fixture
def site(tmp_path):
    """A folder that a static host serves; gives its address and the network."""
    try:
        runtime = runtime_files(None)[0].parent
    except ImportError as error:
        pytest.skip(str(error))
    cnn = prernn.backbone("small_vgg", width=8, units=32, size=32)
    net = prernn.convert(cnn, "fc6", cell="lstm", outputs=5).eval()
    net.recipe = replace(net.recipe, transform=SPEC | {"size": 32}, labels=LABELS, rate=10.0)
    prernn.save(net, tmp_path / "model.safetensors")
    write_static(tmp_path / "model.safetensors", tmp_path / "site", runtime=runtime)
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/", net
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


OUTPUTS = """async ({ shown, width, height }) => {
  const { Network } = await import("/network.js");
  const net = await Network.open(await (await fetch("/about.json")).json());
  const bytes = (text) => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  const found = [];
  for (const text of shown) found.push(Array.from(await net.outputs(bytes(text), width, height)));
  net.reset();
  found.push(Array.from(await net.outputs(bytes(shown[0]), width, height)));
  return found;
}"""


def test_the_network_in_the_browser_says_what_python_says(browser, site):
    """Of the same pixels: outputs within 1e-4 of the largest, over a stream, and as at first after a reset."""
    address, net = site
    shown = pictures(30, (48, 64))
    with browser.new_context(bypass_csp=True) as context:
        page = context.new_page()
        page.goto(address)
        sent = {"shown": [rgba(picture) for picture in shown], "width": 64, "height": 48}
        *got, again = page.evaluate(OUTPUTS, sent)
    stream = Stream(net)
    expected = torch.stack([stream(picture) for picture in shown])
    assert float((torch.tensor(got) - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    assert again == pytest.approx(got[0], rel=1e-6)


def test_the_page_without_a_server(page, site):
    """The same page, the same policy: a worker answers."""
    address, _ = site
    page.goto(address)
    until(page, "#about", "in this browser")
    page.click("#camera")
    until(page, "#rate", "a second")
    until(page, "#scale", "layer 0 in")
    assert page.inner_text("#now") in LABELS
    page.click("#reset")
    until(page, "#status", "The state was reset")
