"""A live camera through OpenCV, with the current answer drawn on the picture.

    python examples/camera_with_opencv.py                              # a panned photograph, into seen.mp4
    python examples/camera_with_opencv.py --source 0                   # the first camera, in a window; q ends it
    python examples/camera_with_opencv.py --source clip.mp4 --run runs/finetuned --out seen.mp4

Without a RUN, the network is an ImageNet classifier whose convolutions have become recurrent (RCN). It needs no
training: each layer averages over the previous frames. A window needs ``opencv-contrib-python`` instead of the headless
OpenCV that prernn installs; with the headless one, only ``--out`` works.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
from skimage.data import chelsea
from timm.data import ImageNetInfo

import prernn
from prernn.streaming.pace import clock_for

PAN, MP4 = "pan.mp4", cv2.VideoWriter.fourcc(*"mp4v")


def imagenet_network() -> prernn.RecurrentNetwork:
    """EfficientNet-Lite0 with a state in each convolution, and the names of its 1,000 classes."""
    net = prernn.convert_rcn(prernn.backbone("efficientnet_lite0", pretrained=True), hidden="diagonal").eval()
    net.recipe = replace(net.recipe, labels=[name.partition(",")[0] for name in ImageNetInfo().label_descriptions()])
    return net


def panned(frames: int = 24) -> str:
    """A video in which the camera moves across a photograph of a cat."""
    photograph, film = cv2.cvtColor(chelsea(), cv2.COLOR_RGB2BGR), cv2.VideoWriter(PAN, MP4, 12, (300, 300))
    for left in range(0, 5 * frames, 5):
        film.write(np.ascontiguousarray(photograph[:, left : left + 300]))
    film.release()
    return PAN


def pictures(capture: cv2.VideoCapture, live: bool) -> Iterator[tuple[float, np.ndarray]]:
    """Time and RGB picture of each frame. Times are wall-clock time for a camera, and time stamps for a file."""
    begin = time.monotonic()
    while (read := capture.read())[0]:
        stamp = time.monotonic() - begin if live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        yield stamp, cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)  # OpenCV's order is blue, green, red


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", help="number of a camera, or a file (default: a panned photograph)")
    parser.add_argument("--run", help="a trained network's folder (default: ImageNet's classes)")
    parser.add_argument("--out", help="a video to write, .mp4 (default: a window; of the photograph seen.mp4)")
    options = parser.parse_args()
    source, out = options.source or panned(), options.out or ("" if options.source else "seen.mp4")
    capture, film = cv2.VideoCapture(int(source) if source.isdigit() else source), None
    if not capture.isOpened():
        parser.error(f"--source {source}: expected a camera or a video, OpenCV opens none")
    stream = prernn.Stream(options.run or imagenet_network())
    # A network that learned motion at 12 frames per second sees 12 per second, whatever the camera's rate.
    for stamp, frame in clock_for([stream.net])(pictures(capture, live=source.isdigit())):
        probability, best = stream.probabilities(frame).max(-1)
        print(f"{stamp:.2f} s  {stream.labels[best]} {probability:.0%}")
        shown, text = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), f"{stream.labels[best]} {probability:.0%}"
        cv2.putText(shown, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
        if out:
            film = film or cv2.VideoWriter(out, MP4, stream.net.recipe.rate or 12, shown.shape[1::-1])
            film.write(shown)
        elif cv2.imshow("prernn", shown) is None and cv2.waitKey(1) == ord("q"):
            break
    if film is not None:
        film.release()  # only now is the file complete


if __name__ == "__main__":
    main()
