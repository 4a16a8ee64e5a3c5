// What is drawn: bars of labels, landmarks, a timeline, a strip of activity.

const SECONDS = 20; // length of the timeline
const COLUMNS = 240; // answers shown on the strip
const MOST_FIXED = 8; // up to this many labels keep their places; of more, the best are shown

/** Colors of labels: hues a golden angle apart, of one lightness that suits both themes. */
const colorOf = (index) => `hsl(${(210 + 137.5 * index) % 360} 60% 38%)`;

/** The colors and size that CSS gives a canvas, whose pixels then match the screen's. */
function prepared(canvas) {
  const { color, borderTopColor, fontFamily } = getComputedStyle(canvas);
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return { context, width, height, ink: color, accent: borderTopColor, fontFamily };
}

/** Probabilities of labels, each a bar. */
export class Bars {
  constructor(list) {
    this.list = list;
    this.labels = [];
  }

  begin(labels) {
    this.labels = labels;
    this.fixed = labels.length <= MOST_FIXED;
    this.list.replaceChildren(...labels.slice(0, MOST_FIXED).map(() => this.#row()));
    if (this.fixed) labels.forEach((label, i) => this.#set(i, label, 0));
  }

  show(top) {
    const pairs = this.fixed ? this.labels.map((label) => [label, new Map(top).get(label) ?? 0]) : top;
    pairs.slice(0, MOST_FIXED).forEach(([label, probability], i) => this.#set(i, label, probability));
  }

  #row() {
    const row = document.createElement("li");
    for (const name of ["name", "track", "share"]) row.append(Object.assign(document.createElement("span"), { className: name }));
    row.children[1].append(Object.assign(document.createElement("div"), { className: "fill" }));
    return row;
  }

  #set(place, label, probability) {
    const [name, track, share] = this.list.children[place].children;
    name.textContent = name.title = label;
    track.firstChild.style.background = colorOf(this.labels.indexOf(label));
    track.firstChild.style.transform = `scaleX(${probability})`;
    share.textContent = `${(100 * probability).toFixed(0)} %`;
  }
}

/** Draws points and box of a face over the picture. */
export function drawFace(canvas, { width, height }, row) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!row?.points) return;
  const unit = Math.max(1, width / 320);
  const [x0, y0, x1, y1] = row.box;
  context.strokeStyle = row.tracked ? "#4ade80" : "#facc15";
  context.lineWidth = unit;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.fillStyle = "#ffffff";
  context.strokeStyle = "#000000";
  context.lineWidth = unit / 2;
  for (const [x, y] of row.points) {
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, 1.5 * unit, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  }
}

/** What happened when: events of the task; if it has none, the labels of moments that are more likely than not. */
export class TimeLine {
  constructor(canvas, log) {
    this.canvas = canvas;
    this.log = log;
    this.begin([]);
  }

  begin(labels) {
    this.labels = labels;
    this.clear();
  }

  clear() {
    this.spans = [];
    this.time = null;
    this.events = false;
    this.log.replaceChildren();
  }

  /** Adds an event's row: a gesture's, or an `EventSpan`, which comes complete when it has ended. */
  event(row) {
    if (!this.events) this.spans = []; // labels of moments are no longer needed
    this.events = true;
    const begin = row.begin_s ?? row.start;
    const end = row.end_s ?? row.end ?? null;
    let span = this.spans.findLast(({ label, begin: other }) => label === row.label && other === begin);
    if (!span) this.spans.push((span = { label: row.label, begin }));
    span.end = end;
    span.command ??= row.command;
    this.#note(span);
  }

  moment(time, label, probability) {
    if (this.time !== null && time < this.time - 1) this.clear(); // the video was rewound
    this.time = time;
    if (this.events || label === undefined) return;
    const last = this.spans.at(-1);
    if (last && last.end === null && last.label !== label) last.end = time;
    if (probability < 0.5 && last?.end === null) last.end = time;
    else if (probability >= 0.5 && (!last || last.end !== null)) this.spans.push({ label, begin: time, end: null });
    this.spans = this.spans.filter(({ end }) => end === null || end > time - SECONDS);
  }

  #note(span) {
    const [from, to] = [span.begin, span.end].map((seconds) => (seconds === null ? "now" : `${seconds.toFixed(2)} s`));
    span.note ??= this.log.insertBefore(document.createElement("li"), this.log.firstChild);
    span.note.textContent = `${span.label}: ${from} to ${to}${span.command ? `, ${span.command}` : ""}`;
    while (this.log.children.length > 5) this.log.lastChild.remove();
  }

  draw() {
    const { context, width, height, ink, fontFamily } = prepared(this.canvas);
    const now = this.time ?? 0;
    const x = (time) => width * (1 - (now - time) / SECONDS);
    const bottom = height - 18;
    context.font = `12px ${fontFamily}`;
    context.textBaseline = "middle";
    for (const { label, begin, end } of this.spans) {
      const [from, to] = [Math.max(0, x(begin)), x(end ?? now)];
      if (to <= 0) continue;
      context.fillStyle = colorOf(Math.max(0, this.labels.indexOf(label)));
      context.fillRect(from, 0, Math.max(2, to - from - 1), bottom - 4);
      if (context.measureText(label).width < to - from - 10) {
        context.fillStyle = "#ffffff";
        context.fillText(label, from + 5, (bottom - 4) / 2);
      }
    }
    context.fillStyle = ink;
    context.globalAlpha = 0.7;
    context.fillRect(0, bottom, width, 1);
    for (let second = Math.ceil((now - SECONDS) / 5) * 5; second <= now; second += 5) {
      if (second < 0) continue;
      const text = `${second} s`;
      context.fillRect(x(second), bottom, 1, 4);
      context.fillText(text, Math.min(x(second) + 3, width - context.measureText(text).width), bottom + 11);
    }
  }
}

/** Activity of hidden units: a row for each group, a column for each answer, the newest on the right. */
export class Strip {
  constructor(canvas, scale) {
    this.canvas = canvas;
    this.scale = scale;
    this.shown = "change";
    this.clear();
  }

  clear() {
    this.columns = [];
    this.most = { change: 0, level: 0 };
  }

  add(layers) {
    const column = {};
    for (const kind of ["change", "level"]) {
      column[kind] = layers.flatMap((layer) => layer[kind]);
      this.most[kind] = Math.max(1e-9, 0.995 * this.most[kind], ...column[kind]); // adapts to the current values
    }
    this.columns.push(column);
    if (this.columns.length > COLUMNS) this.columns.shift();
    this.layers = layers.map(({ name, level }) => `${name.replace(/^state_(\d+)_.*/, "layer $1")} in ${level.length} groups`);
  }

  draw() {
    const rows = this.columns.at(-1)?.level.length ?? 0;
    if (rows === 0) return;
    const most = this.most[this.shown];
    const [r, g, b] = getComputedStyle(this.canvas).borderTopColor.match(/[\d.]+/g).map(Number);
    const image = new ImageData(COLUMNS, rows);
    this.columns.forEach((column, i) => {
      const x = COLUMNS - this.columns.length + i;
      column[this.shown].forEach((value, y) => {
        image.data.set([r, g, b, 255 * Math.min(1, value / most)], 4 * (y * COLUMNS + x));
      });
    });
    Object.assign(this.canvas, { width: COLUMNS, height: rows });
    this.canvas.style.height = `${Math.min(256, Math.max(96, 3 * rows))}px`;
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    const words = this.shown === "change" ? "|h(t) − h(t−1)|" : "|h(t)|";
    this.scale.textContent = `Mean ${words} of neighboring units, ${this.layers.join(", ")}; full color is ${most.toPrecision(2)}.`;
  }
}
