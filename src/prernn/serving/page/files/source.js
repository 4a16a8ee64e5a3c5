// Where frames come from, a camera or a video that is played, and when the network sees the next one.

const LONGEST = 640; // pixels of the longer side of a frame passed to the network's transform
const DEFAULT_FPS = 30; // if the network does not state its rate

export class Source {
  /** @param {HTMLVideoElement} video element that shows it */
  constructor(video) {
    this.video = video;
    this.canvas = document.createElement("canvas");
    this.kind = null; // "camera", "file"
    this.begun = null; // when the camera's first picture was seen, which may be before play() resolves
  }

  async openCamera() {
    const size = { width: { ideal: LONGEST }, height: { ideal: 480 } };
    const stream = await navigator.mediaDevices.getUserMedia({ video: size, audio: false });
    this.close();
    this.kind = "camera";
    this.video.srcObject = stream;
    this.video.controls = false;
    await this.video.play();
  }

  async openFile(file) {
    this.close();
    this.kind = "file";
    this.video.src = URL.createObjectURL(file);
    this.video.controls = true;
    await this.video.play(); // rejects if it is no video, but plays the sound alone of one whose codec it lacks
    if (!this.video.videoWidth) throw new DOMException("no picture", "NotSupportedError");
  }

  close() {
    this.video.pause();
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    this.video.load();
    this.kind = this.begun = null;
  }

  /** Whether the picture is running. */
  get running() {
    const { paused, ended, readyState, videoWidth } = this.video;
    return this.kind !== null && !paused && !ended && readyState >= 2 && videoWidth > 0;
  }

  /** Seconds in the video, or since the camera's first picture. */
  get time() {
    if (this.kind === "file") return this.video.currentTime;
    this.begun ??= performance.now();
    return (performance.now() - this.begun) / 1000;
  }

  /** The current picture, at most LONGEST pixels long, on the source's canvas. */
  grab() {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, LONGEST / Math.max(videoWidth, videoHeight));
    const width = Math.max(1, Math.round(videoWidth * scale));
    const height = Math.max(1, Math.round(videoHeight * scale));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.canvas.getContext("2d", { willReadFrequently: true }).drawImage(this.video, 0, 0, width, height);
    return this.canvas;
  }
}

export class Clock {
  /** Ticks at the network's rate, as `prernn stream` keeps it; `late` counts those that had to be skipped. */
  constructor(fps, mostFps = Infinity) {
    this.period = 1 / Math.min(fps ?? DEFAULT_FPS, 0.95 * mostFps);
    this.late = 0;
    this.due = null;
  }

  /** Whether a tick is due at a time in seconds; one that passed without a call is counted as late. */
  tick(time) {
    if (this.due === null || time < this.due - 2 * this.period) this.due = time; // the first tick, or the video was rewound
    const periods = (time - this.due) / this.period;
    if (periods < -0.05) return false;
    const missed = Math.max(0, Math.floor(periods));
    this.late += missed;
    this.due += (missed + 1) * this.period;
    return true;
  }
}
