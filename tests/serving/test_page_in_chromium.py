"""The page in a real Chromium: a camera that plays a file, an upload, a token; and the network in the browser alone.

Needs Debian's ``chromium`` and ``pip install playwright``, which need not fetch a browser of its own.
"""

import base64
import functools
import http.server
import shutil
import threading
from dataclasses import replace

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


def until(page, element, words):
    playwright.expect(page.locator(element)).to_contain_text(words, timeout=LOOKS)


def test_a_camera(page):
    """Answers come, labels have bars, units have a strip; the state starts anew; colours change; it stops."""
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
        until(page, "#status", "The state starts anew")
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


def test_an_upload(page, tmp_path):
    write_video(tmp_path / "clip.mp4", pictures(40, (48, 64)), 10)
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with served(network().float(), page=True) as (address, server):
        page.goto(f"http://{address}/")
        until(page, "#status", "Ready")
        page.set_input_files("#file", tmp_path / "none.mp4")
        until(page, "#status", "none.mp4: this browser can't play it")
        page.set_input_files("#file", tmp_path / "clip.mp4")
        until(page, "#rate", "a second")
        page.wait_for_function("() => document.getElementById('video').ended")
        answered = server.service.metrics.frames.labels("answered")._value.get()
        assert answered > 10
        assert page.inner_text("#now") in LABELS


def test_a_token(page):
    with served(network().float(), page=True, token="sesame") as (address, _):
        page.goto(f"http://{address}/")
        until(page, "#status", "wants its token")
        assert page.locator("#camera").is_disabled()
        for token, words in (("wrong", "expected the server's token, got another"), ("sesame", "action")):
            page.fill("#token", token)
            page.press("#token", "Enter")
            until(page, "#status", words)
        assert page.locator("#ask").is_hidden()
        assert page.locator("#camera").is_enabled()


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
    """Of the same pixels: outputs within 1e-3 of the largest, over a stream, and as at first after a reset."""
    address, net = site
    shown = pictures(30, (48, 64))
    with browser.new_context(bypass_csp=True) as context:
        page = context.new_page()
        page.goto(address)
        sent = {"shown": [rgba(picture) for picture in shown], "width": 64, "height": 48}
        *got, again = page.evaluate(OUTPUTS, sent)
    stream = Stream(net)
    expected = torch.stack([stream(picture) for picture in shown])
    assert float((torch.tensor(got) - expected).abs().max()) < 1e-3 * float(expected.abs().max())
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
    until(page, "#status", "The state starts anew")
