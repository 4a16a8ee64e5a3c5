// The page: a source's frames go to a network, on a server or in this browser, and its answers are shown.
import { openBrowser } from "./browser.js";
import { openServer } from "./server.js";
import { Clock, Source } from "./source.js";
import { Bars, Strip, TimeLine, drawFace } from "./view.js";

const MOST_WAITING = 2; // frames without an answer; more would only queue up
const GIVE_UP = 5000; // milliseconds after which an answer is no longer expected
const TOP = 8;
const BINS = 32;

const at = (id) => document.getElementById(id);
const source = new Source(at("video"));
const bars = new Bars(at("bars"));
const line = new TimeLine(at("line"), at("log"));
const strip = new Strip(at("strip"), at("scale"));
let about, stream, clock;
let token; // kept in memory only
let lost = 0;
let refused = 0;
let drawn = true;
let answered = []; // times of the answers of the last seconds

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

/** Runs an action that may fail, and shows the error. */
const tried = (action) => async (event) => {
  event?.preventDefault?.();
  try {
    await action(event);
  } catch (error) {
    say(error.message, true);
    buttons();
  }
};

function buttons() {
  const ready = about !== undefined && at("ask").hidden;
  at("camera").disabled = !ready || !window.isSecureContext || !navigator.mediaDevices;
  at("file").disabled = !ready;
  at("stop").disabled = source.kind === null;
  at("reset").disabled = !stream;
  at("empty").hidden = source.kind !== null;
}

async function load() {
  about = await (await fetch("about.json")).json();
  const where = about.runs === "browser" ? "in this browser; no picture leaves it" : "on the server that sent this page";
  at("about").textContent = `${about.task}, computed ${where}`;
  at("ask").hidden = !about.token;
  if (about.token) say("This server requires its token.");
  else if (!window.isSecureContext) say("Browsers allow the camera only on localhost or over https; videos work.");
  else say("Ready.");
  if (about.runs === "browser" && about.reset && about.reset !== "never") {
    say(`The run has automatic resets (${about.reset}); in the browser only the button resets.`);
  }
  buttons();
}

/** Opens a stream that starts from zero. */
async function begin() {
  stream?.close();
  stream = undefined;
  const events = { onAnswer: take, onGone: gone };
  const hello = { frames: "jpeg", times: true, fps: "source", top: TOP, activity: BINS, ...(token && { token }) };
  say(about.runs === "browser" ? "Loading the network" : "Connecting");
  lost = refused = 0;
  answered = [];
  line.begin([]);
  strip.clear();
  const opened = about.runs === "browser" ? openBrowser({ about, ...events }) : openServer({ hello, ...events });
  stream = await opened;
  const labels = stream.started.labels ?? [];
  bars.begin(labels);
  line.begin(labels);
  clock = new Clock(about.fps, about.most_fps);
  const rate = about.fps ? `${about.fps.toFixed(1).replace(/\.0$/, "")} frames a second, as in training` : "frames as they come";
  say(`${stream.started.task}: ${rate}.`);
}

function gone(why) {
  stop();
  say(`${why}. Start again; the state then starts from zero.`, true);
}

function stop() {
  stream?.close();
  stream = undefined;
  source.close();
  drawFace(at("overlay"), { width: 1, height: 1 }, null);
  at("stage").style.aspectRatio = "";
  buttons();
}

/** Shows an answer of the network. */
function take(answer) {
  if (answer.type === "refused") {
    refused += 1;
    say(answer.error, true);
  }
  if (answer.type !== "frame" && answer.type !== "reset") return;
  let shown = { top: answer.top };
  for (const row of answer.rows) {
    if (row.event !== undefined) line.event(row);
    else if (row.points !== undefined) drawFace(at("overlay"), source.canvas, row);
    else if (row.label !== undefined) shown = row;
  }
  if (answer.type === "reset") return;
  if (shown.top) {
    const [[label, probability]] = shown.top;
    at("now").textContent = shown.label ?? label;
    bars.show(shown.top);
    line.moment(answer.time_s, shown.label, shown.probability);
  } else {
    const [row] = answer.rows;
    if (row?.points !== undefined) at("now").textContent = row.points ? "A face" : "No face";
    line.moment(answer.time_s);
  }
  if (answer.activity?.length) strip.add(answer.activity);
  at("activity").hidden = strip.columns.length === 0;
  at("events").hidden = stream?.started?.task === "face";
  numbers(answer);
  drawn = false;
}

function numbers({ waited_ms, round_ms, dropped }) {
  const now = performance.now();
  answered = [...answered.filter((time) => now - time < 3000), now];
  const seconds = (now - answered[0]) / 1000;
  at("waited").textContent = `${waited_ms.toFixed(0)} ms`;
  at("round").textContent = round_ms === undefined ? "–" : `${round_ms.toFixed(0)} ms`;
  at("rate").textContent = seconds > 0.5 ? `${((answered.length - 1) / seconds).toFixed(1)} a second` : "–";
  const here = (clock?.late ?? 0) + lost;
  at("dropped").textContent = `${here} here, ${dropped} there${refused ? `, ${refused} refused` : ""}`;
}

/** For each screen refresh: sends a frame if one is due, and draws what has arrived. */
function turn() {
  requestAnimationFrame(turn);
  if (stream && source.running && clock) {
    lost += stream.giveUp(GIVE_UP);
    if (clock.tick(source.time)) {
      if (stream.waiting < MOST_WAITING) stream.send(source.grab(), source.time);
      else lost += 1;
    }
  }
  if (!drawn) {
    line.draw();
    strip.draw();
    drawn = true;
  }
}

async function start(open) {
  at("camera").disabled = at("file").disabled = true;
  await begin(); // start over, because another source has another time
  try {
    await open();
  } catch (error) {
    stop();
    throw error;
  }
  const { videoWidth, videoHeight } = source.video;
  at("stage").style.aspectRatio = `${videoWidth} / ${videoHeight}`;
  buttons();
}

at("camera").onclick = tried(() => start(() => source.openCamera()));
at("file").onchange = tried(async () => {
  const [file] = at("file").files;
  at("file").value = ""; // so that the same file again counts as a change
  if (!file) return;
  try {
    await start(() => source.openFile(file));
  } catch (error) {
    throw error.name === "NotSupportedError" ? new Error(`${file.name}: this browser can't play it.`) : error;
  }
});
at("stop").onclick = () => {
  stop();
  say("Stopped.");
};
at("reset").onclick = () => {
  stream?.reset();
  strip.clear();
  say("The state was reset.");
};
source.video.onended = () => stream?.reset(); // brings the rows that were still due
source.video.onseeked = () => source.kind === "file" && stream?.reset();
at("ask").onsubmit = tried(async () => {
  token = at("token").value;
  await begin(); // shows an error if the token is wrong
  at("ask").hidden = true;
  buttons();
});
at("shown").onchange = () => {
  strip.shown = at("shown").value;
  drawn = false;
};

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  const dark = name ? name === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  at("theme").textContent = dark ? "Light" : "Dark";
  at("theme").setAttribute("aria-label", `${dark ? "Light" : "Dark"} colors`);
  at("theme").onclick = () => theme(dark ? "light" : "dark");
  drawn = false;
}

theme();
requestAnimationFrame(turn);
tried(load)();
