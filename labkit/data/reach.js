// What the lab's parts of a page have in common: how to reach a port of the lab from here, and its clock.
const PROBE_MS = 3000; // for an answer
const TRIPS = 20; // round trips by which a clock is read; as many again are remembered
const ALIVE_MS = 5000; // between two signs of life
const MISSES = 5; // attempts, a second apart, after which the lab is gone

// Tells the kernel something, unless it is gone; says whether it is there.
const tellKernel = (model, message) => {
  try {
    model.send(message);
    return true;
  } catch (error) {
    if (error.message !== "Cannot send") throw error; // JupyterLab's word for a kernel that was ended or restarted
    return false;
  }
};

// One place that shows a model: tells the kernel so every few seconds, and when a button or a key is pressed in its
// panel, which is then the one that is meant; and when it is gone.
class Place {
  view = crypto.randomUUID?.() ?? String(Math.random());
  #closing = new AbortController();

  constructor(model, el) {
    Object.assign(this, { model, el });
    const pressed = ({ target }) => this.el.closest(".widget-vbox")?.contains(target) && this.#show(true, true);
    const leave = () => this.#show(false), { signal } = this.#closing;
    for (const press of ["pointerdown", "keydown"]) addEventListener(press, pressed, { capture: true, signal });
    addEventListener("pagehide", leave, { signal });
    const alive = setInterval(() => this.#show(true), ALIVE_MS);
    signal.addEventListener("abort", () => clearInterval(alive));
    this.#show(true);
  }

  tell(message) {
    if (!tellKernel(this.model, { view: this.view, ...message })) this.#closing.abort();
  }

  #show(shown, pressed = false) {
    this.tell({ shown, pressed, origin: location.origin });
  }

  close() {
    this.#show(false);
    this.#closing.abort();
  }
}

// The smallest step of this page's clock, which browsers make coarse on purpose.
const STEP_MS = Math.min(...Array.from({ length: 5 }, () => {
  const before = performance.now();
  let now = before;
  while (now === before) now = performance.now();
  return now - before;
}));

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const socketOf = (url) => url.replace(/^http/, "ws");
const make = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// A port of the lab is on this page's own machine, or else behind the notebook server.
function ways() {
  const found = [];
  if (/^(localhost|127(\.\d+){3}|\[::1\])$/.test(location.hostname)) {
    found.push({ proxied: false, to: (port) => `http://127.0.0.1:${port}` });
  }
  const config = document.getElementById("jupyter-config-data");
  if (config) {
    const base = new URL(JSON.parse(config.textContent).baseUrl, location.origin).href;
    found.push({ proxied: true, to: (port) => `${base}proxy/${port}` });
  }
  return found;
}

// The first way on which the lab's clock answers; null where there is none.
async function reach(port) {
  for (const way of ways()) {
    const answer = fetch(`${way.to(port)}/clock`, { signal: AbortSignal.timeout(PROBE_MS) });
    const text = await answer.then((response) => response.text()).catch(() => ""); // then it is no way
    if (/^\d+$/.test(text)) return way;
  }
  return null;
}

// The lab's clock, asked over a socket, by which each end knows that the other is there; without it, `gone` is called.
// Of several round trips the shortest tells the time best: it is off by half of itself, and a step of the page's own
// clock, at the most.
class Clock {
  #trips = [];

  constructor(url, signal, gone) {
    Object.assign(this, { url, signal, gone });
    signal.addEventListener("abort", () => this.socket.close());
  }

  async open(misses = 0) {
    const socket = (this.socket = new WebSocket(this.url));
    socket.onclose = () => {
      if (this.signal.aborted) return;
      if (misses === MISSES) this.gone();
      else setTimeout(() => this.signal.aborted || this.open(misses + 1), 1000);
    };
    await new Promise((resolve) => (socket.onopen = resolve));
    misses = 0;
    await this.read(TRIPS);
  }

  async read(times) {
    for (let trip = 0; trip < times && this.socket.readyState === WebSocket.OPEN; trip++) {
      const asked = performance.now();
      const [ns, answered] = await new Promise((resolve) => {
        this.socket.onmessage = ({ data }) => resolve([Number(data), performance.now()]);
        this.socket.send("");
      });
      this.#trips.push({ error: (answered - asked) / 2 + STEP_MS, offset: ns / 1e6 - (asked + answered) / 2 });
    }
    this.#trips = this.#trips.slice(-2 * TRIPS);
    this.best = this.#trips.reduce((a, b) => (b.error < a.error ? b : a));
  }

  now() {
    return Math.round((performance.now() + this.best.offset) * 1e6); // ns
  }
}
