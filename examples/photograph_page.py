"""Takes a picture of the page (``prernn web``) in Chromium, while the page follows one video after the other.

python examples/photograph_page.py RUN OUT.png VIDEO... [--dark]

Needs Chromium and ``pip install playwright``; playwright need not download a browser of its own.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from prernn.media.encoding import write_video
from prernn.media.video import probe, read_frames

SIDE = 480  # height and width in pixels of the film for the page


def join(videos, path):
    """Joins the frames of the videos into one film of square pictures."""
    frames = [frame for video in videos for _, frame in read_frames(video)]
    rate = probe(videos[0]).fps
    write_video(path, [cv2.resize(np.ascontiguousarray(frame), (SIDE, SIDE)) for frame in frames], rate)


def photograph(address, film, out, dark=False):
    """Opens the film on the page, and takes the picture when it has ended, in 256 colors."""
    with sync_playwright() as started:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": 1000, "height": 850}, color_scheme="dark" if dark else "light")
        page.goto(address)
        expect(page.locator("#status")).to_contain_text("Ready", timeout=30_000)
        page.set_input_files("#file", film)
        expect(page.locator("#rate")).to_contain_text("a second", timeout=30_000)
        page.wait_for_function("() => document.getElementById('video').ended", timeout=600_000)
        page.locator("#video").evaluate("video => { video.controls = false; }")
        page.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        browser.close()
    picture.convert("RGB").quantize(256).save(out, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run")
    parser.add_argument("out")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    command = [sys.executable, "-m", "prernn.commands.main", "web", options.run, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stderr.readline())[0]
        with tempfile.TemporaryDirectory() as folder:
            film = Path(folder) / "film.mp4"
            join(options.videos, film)
            photograph(address, film, options.out, options.dark)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
