// A network in its own thread: frames in, answers out, in the same order.
import { Network } from "./network.js";

let network;
let frame = 0;

async function answer({ type, ...data }) {
  if (type === "begin") {
    network = await Network.open(data.about);
    const { labels, task, fps } = data.about;
    return { type: "started", from: "zero", labels, task, fps };
  }
  if (type === "reset") {
    network.reset();
    return { type: "reset", rows: [] };
  }
  const begun = performance.now();
  const { label, probability, top, activity } = await network.see(data.pixels, data.width, data.height);
  const waited_ms = performance.now() - begun;
  const row = { frame, time_s: data.time, label, probability, top };
  return { type: "frame", message: data.message, frame: frame++, time_s: data.time, rows: [row], activity, waited_ms, dropped: 0 };
}

let latest = Promise.resolve();
self.onmessage = ({ data }) => {
  latest = latest
    .then(() => answer(data))
    .catch((error) => ({ type: "error", error: String(error.message ?? error) }))
    .then((message) => self.postMessage(message));
};
