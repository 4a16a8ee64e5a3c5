"""One state for each person: a detector's box, a tracker, a crop, and a row of the batch.

python examples/people.py RUN VIDEO            # people from head to foot, found by OpenCV's HOG detector
python examples/people.py RUN VIDEO --faces    # faces, found by its cascade

Writes time, person, box, label and probability as CSV. A person who returns after a while counts as a new one.
"""

import argparse
import csv
import sys

import cv2

import prernn
from prernn.media.video import read_frames
from prernn.streaming.pace import clock_for
from prernn.tasks.face.detection.detectors import cascade_detector

SAME = 0.3  # least intersection over union of two boxes of the same person
PATIENCE = 10  # frames without a detection for which a person is kept, in their last box


def overlap(a, b):
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def follow(streams, people, boxes):
    """Gives each person the box that overlaps most; others join or leave. people: stream to (box, frames unseen)."""
    pairs = [(overlap(box, old), number, box) for box in boxes for number, (old, _) in people.items()]
    now, left = {}, list(boxes)
    for share, number, box in sorted(pairs, reverse=True):
        if share >= SAME and number not in now and box in left:
            now[number] = (box, 0)
            left.remove(box)
    for number, (box, unseen) in people.items():
        if number not in now and unseen < PATIENCE:
            now[number] = (box, unseen + 1)
        elif number not in now:
            streams.leave(number)
    return now | {streams.join(): (box, 0) for box in left}


def crop(frame, box):
    """The part of a box that is inside the frame."""
    x0, y0, x1, y1 = (max(0, edge) for edge in box)
    return frame[y0:y1, x0:x1]


def body_detector():
    """OpenCV's detector of standing or walking people, as a function from a frame to boxes (x0, y0, x1, y1)."""
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
    return lambda frame: [(x, y, x + w, y + h) for x, y, w, h in hog.detectMultiScale(frame, winStride=(8, 8))[0]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("source")
    parser.add_argument("--faces", action="store_true")
    options = parser.parse_args()
    detect = cascade_detector() if options.faces else body_detector()
    streams, people = prernn.StreamBatch(options.run), {}
    for time, frame in clock_for([streams.net])(read_frames(options.source)):
        people = follow(streams, people, [tuple(map(int, box)) for box in detect(frame)])
        crops = {number: crop(frame, box) for number, (box, _) in people.items()}
        for number, out in streams.step(crops).items():
            if out is not None:  # a network of snippets has no answer for most frames
                probability, best = out.softmax(-1).max(-1)
                row = (f"{time:.3f}", number, *people[number][0], streams.labels[best], f"{probability:.4f}")
                csv.writer(sys.stdout).writerow(row)


if __name__ == "__main__":
    main()
