// Answers from a server: the WebSocket of `prernn serve`.

/**
 * Opens a stream.
 *
 * @param {{hello: object, onAnswer: (answer: object) => void, onGone: (why: string) => void}} wishes
 * @returns {Promise<object>} `started`, `waiting` (frames without an answer), `send(canvas, time)`, `reset()`, `close()`
 */
export function openServer({ hello, onAnswer, onGone }) {
  const url = new URL("stream", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  const sent = new Map(); // from a frame's number to the time it was sent
  let why = "";
  let number = 0;
  let preparing = 0;
  let queue = Promise.resolve(); // frames are sent in order, however long each takes to encode
  let left = false;
  const stream = {
    started: null,
    get waiting() {
      return preparing + sent.size;
    },
    send(canvas, time) {
      const begun = performance.now();
      const encoded = new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
      preparing += 1;
      queue = queue.then(async () => {
        const jpeg = await encoded;
        preparing -= 1;
        if (jpeg === null || socket.readyState !== WebSocket.OPEN) return;
        const stamp = new DataView(new ArrayBuffer(8));
        stamp.setFloat64(0, time, true);
        socket.send(new Blob([stamp, jpeg]));
        sent.set(number++, begun);
      });
    },
    /** Number of frames that will have no answer, because the server dropped them. */
    giveUp(milliseconds) {
      const late = [...sent].filter(([, begun]) => performance.now() - begun > milliseconds);
      late.forEach(([message]) => sent.delete(message));
      return late.length;
    },
    reset: () => socket.readyState === WebSocket.OPEN && socket.send('{"type": "reset"}'),
    close() {
      left = true;
      socket.close();
    },
  };
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send(JSON.stringify(hello));
    socket.onmessage = ({ data }) => {
      if (left) return;
      const answer = JSON.parse(data);
      if (answer.type === "error") why = answer.error;
      if (answer.type === "started") resolve(Object.assign(stream, { started: answer }));
      if (sent.has(answer.message)) {
        answer.round_ms = performance.now() - sent.get(answer.message);
        sent.delete(answer.message);
      }
      onAnswer(answer);
    };
    socket.onclose = () => {
      why ||= "the connection was closed";
      if (stream.started === null) reject(new Error(why));
      else if (!left) onGone(why);
    };
  });
}
