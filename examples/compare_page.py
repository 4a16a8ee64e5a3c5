"""Compares the network in the browser with Python: how far the outputs differ, and how long a frame takes.

python examples/compare_page.py RUN VIDEO...

The frames of the videos, as large as a camera's, go one by one through the exported step in Chromium (``prernn web RUN
--static``) and through `prernn.Stream` in torch and in onnxruntime, also as the JPEG that the page would send to a
server. Needs Chromium and ``pip install playwright``; playwright need not download a browser of its own.
"""

import base64
import functools
import http.server
import io
import itertools
import shutil
import sys
import tempfile
import threading
from statistics import median
from time import perf_counter

import cv2
import numpy as np
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

import prernn
from prernn.media.video import read_frames
from prernn.serving.page.static import write_static

SIDE = 480  # pixels of a frame
WARM = 3  # frames that are not timed
SCRIPT = """async ({ text, width, height }) => {
  if (!globalThis.network) {
    const { Network } = await import("/network.js");
    globalThis.network = await Network.open(await (await fetch("/about.json")).json());
  }
  const pixels = Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
  const begun = performance.now();
  const outputs = Array.from(await globalThis.network.outputs(pixels, width, height));
  const ms = performance.now() - begun;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return { outputs, ms, jpeg: canvas.toDataURL("image/jpeg", 0.9).split(",")[1] };
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def asked(page, frame):
    """Outputs, milliseconds and the JPEG of a frame, in the browser."""
    height, width = frame.shape[:2]
    pixels = np.dstack([frame, np.full((height, width), 255, np.uint8)]).tobytes()
    return page.evaluate(SCRIPT, {"text": base64.b64encode(pixels).decode(), "width": width, "height": height})


def timed(stream, frame, times):
    begun = perf_counter()
    outputs = stream(frame)
    times.append(1e3 * (perf_counter() - begun))
    return outputs


def main():
    run, *videos = sys.argv[1:]
    torch.set_num_threads(1)
    streams = {"torch": prernn.Stream(run), "onnxruntime": prernn.Stream(run, "onnxruntime", threads=1)}
    by_jpeg, times = prernn.Stream(run), {name: [] for name in ("browser", *streams)}
    found = {name: [] for name in ("browser", "python", "jpeg")}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        write_static(run, folder)
        host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=host.serve_forever, daemon=True).start()
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(bypass_csp=True).new_page()
        page.goto(f"http://127.0.0.1:{host.server_port}/")
        for _, small in itertools.chain.from_iterable(map(read_frames, videos)):
            frame = cv2.resize(np.ascontiguousarray(small), (SIDE, SIDE))
            answer = asked(page, frame)
            times["browser"].append(answer["ms"])
            python = {name: timed(stream, frame, times[name]) for name, stream in streams.items()}
            jpeg = Image.open(io.BytesIO(base64.b64decode(answer["jpeg"]))).convert("RGB")
            for name, outputs in (("browser", torch.tensor(answer["outputs"])), ("python", python["torch"])):
                found[name].append(outputs)
            found["jpeg"].append(by_jpeg(np.array(jpeg)))
        browser.close()
        host.shutdown()
    report({name: torch.stack(outputs) for name, outputs in found.items()}, times)


def report(found, times):
    python = found["python"]
    for name in ("browser", "jpeg"):
        apart = float((found[name] - python).abs().max())
        shares = (found[name].softmax(-1) - python.softmax(-1)).abs().amax(-1)
        other = int((found[name].argmax(-1) != python.argmax(-1)).sum())
        print(
            f"{name} from python, {len(python)} frames: outputs {apart:.2g} of {float(python.abs().max()):.3g}, "
            f"probabilities {float(shares.max()):.2g} at most, {float(shares.median()):.2g} in half; "
            f"another best label in {other}"
        )
    print("ms a frame, medians: " + ", ".join(f"{name} {median(values[WARM:]):.1f}" for name, values in times.items()))


if __name__ == "__main__":
    main()
