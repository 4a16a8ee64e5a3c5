// One step of an exported network (`prernn export`), run by onnxruntime-web; its state is kept here.
import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { transformed } from "./transform.js";

const TOP = 8;
const BINS = 32;

export class Network {
  /** @param {object} about about.json, as `prernn web --static` writes it */
  static async open(about) {
    ort.env.wasm.numThreads = 1; // more threads need cross-origin isolation headers, which few static hosts send
    ort.env.wasm.wasmPaths = { wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
    const url = new URL(about.model, import.meta.url).href;
    const session = await ort.InferenceSession.create(url, { executionProviders: ["wasm"] });
    return new Network(about, session);
  }

  constructor(about, session) {
    this.about = about;
    this.session = session;
    this.reset();
  }

  /** Forgets everything it has seen. */
  reset() {
    const zeros = ({ name, shape }) => [name, new ort.Tensor("float32", new Float32Array(product(shape)), [1, ...shape])];
    this.state = Object.fromEntries(this.about.states.map(zeros));
  }

  /** The outputs for a picture, RGBA bytes: Float32Array of K; the state is carried on. */
  async outputs(pixels, width, height) {
    const { size } = this.about.transform;
    const frame = transformed(pixels, width, height, this.about.transform);
    const feeds = { frame: new ort.Tensor("float32", frame, [1, 3, size, size]), ...this.state };
    const results = await this.session.run(feeds);
    this.state = Object.fromEntries(this.about.states.map(({ name }) => [name, results[`next_${name}`]]));
    return results.output.data;
  }

  /** What a server's row says about a picture. */
  async see(pixels, width, height) {
    const before = this.state;
    const { labels, temperature, unknown_below } = this.about;
    const probabilities = softmax(await this.outputs(pixels, width, height), temperature);
    const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
    const [best] = order;
    const label = probabilities[best] < unknown_below ? "unknown" : labels[best];
    const top = order.slice(0, TOP).map((k) => [labels[k], probabilities[k]]);
    return { label, probability: probabilities[best], top, activity: activity(this.about.states, before, this.state) };
  }
}

export function softmax(outputs, temperature = 1) {
  const most = Math.max(...outputs);
  const powers = Array.from(outputs, (value) => Math.exp((value - most) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** Means of |h| and |h - h before| over groups of hidden units, like the server's `Activity`. */
function activity(states, before, now) {
  const hidden = states.filter(({ name }) => name.endsWith("_h"));
  return (hidden.length ? hidden : states).map(({ name, shape }) => {
    const units = shape[0];
    const places = product(shape.slice(1)); // positions in a map
    const bins = Math.min(BINS, units);
    const level = new Array(bins).fill(0);
    const change = new Array(bins).fill(0);
    const [old, values] = [before[name].data, now[name].data];
    for (let bin = 0, unit = 0; bin < bins; bin += 1) {
      const count = Math.floor(units / bins) + (bin < units % bins ? 1 : 0);
      for (let i = unit * places; i < (unit + count) * places; i += 1) {
        level[bin] += Math.abs(values[i]) / (count * places);
        change[bin] += Math.abs(values[i] - old[i]) / (count * places);
      }
      unit += count;
    }
    return { name, level, change };
  });
}

const product = (shape) => shape.reduce((a, b) => a * b, 1);
