// Answers from the network in this browser: a worker runs it, so that the page stays responsive.

/** Like `openServer` in server.js, without a server. */
export function openBrowser({ about, onAnswer, onGone }) {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const sent = new Map();
  let number = 0;
  const stream = {
    started: null,
    get waiting() {
      return sent.size;
    },
    send(canvas, time) {
      const { width, height } = canvas;
      const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      sent.set(number, performance.now());
      worker.postMessage({ type: "frame", message: number++, time, pixels, width, height }, [pixels.buffer]);
    },
    giveUp: () => 0, // a worker answers every frame
    reset: () => worker.postMessage({ type: "reset" }),
    close: () => worker.terminate(),
  };
  return new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new Error(event.message || "the worker did not start"));
    worker.onmessage = ({ data: answer }) => {
      if (answer.type === "started") resolve(Object.assign(stream, { started: answer }));
      if (answer.type === "error") {
        if (stream.started === null) reject(new Error(answer.error));
        else onGone(answer.error);
      }
      if (sent.has(answer.message)) {
        answer.round_ms = performance.now() - sent.get(answer.message);
        sent.delete(answer.message);
      }
      onAnswer(answer);
    };
    worker.postMessage({ type: "begin", about });
  });
}
