// The page's half of a live trial: what its subscribers get is told to the kernel in batches, with its time in the
// lab's clock, and shown. Nothing is judged here. Follows reach.js and native.js.
const BATCH_MS = 100; // between two messages to the kernel, and two changes of what is shown
const AGAIN_MS = 10000; // between two readings of the clock
const SHOWN = 6; // of the events, and of the connections

// One trial, from finding the way to the lab until it is closed.
class Trial {
  events = []; // the newest first
  ends = ""; // the id of the last event, once there is one
  #told = [];
  #flushed = 0;
  #timer = null;
  #closing = new AbortController();

  constructor(task, send, draw) {
    Object.assign(this, { task: { ...task }, send, draw });
    this.subscribers = Array.from({ length: task.subscribers }, (_, number) => new Subscriber(number, this));
  }

  async start() {
    const { signal } = this.#closing, way = await reach(this.task.page);
    if (signal.aborted) return;
    if (!way) return this.send({ reached: false });
    this.clock = new Clock(`${socketOf(way.to(this.task.page))}/socket`, signal, () => this.close());
    await this.clock.open();
    if (signal.aborted) return;
    const url = way.to(this.task.port);
    this.task.proxied = way.proxied;
    this.send({ reached: true, proxied: way.proxied });
    for (const subscriber of this.subscribers) OPENERS[this.task.protocol](subscriber, url, signal);
    const reading = setInterval(() => this.clock.read(4), AGAIN_MS);
    signal.addEventListener("abort", () => clearInterval(reading));
  }

  // The time comes first; what is told is sent now, or soon, with what follows.
  tell(subscriber, what, text = "") {
    const at = this.clock.now(), since = performance.now() - this.#flushed;
    this.#told.push([subscriber, at, what, text]);
    if (since >= BATCH_MS) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), BATCH_MS - since);
    return at;
  }

  came(event) {
    this.events = [event, ...this.events].slice(0, SHOWN);
  }

  flush() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#flushed = performance.now();
    if (this.#told.length && !this.#closing.signal.aborted) this.send({ told: this.#told, error_ms: this.clock.best.error });
    this.#told = [];
    this.draw();
  }

  // Behind all that was told, so that the kernel knows that it has it.
  mark(mark) {
    this.flush();
    if (!this.#closing.signal.aborted) this.send({ mark });
  }

  close() {
    this.#closing.abort();
    for (const subscriber of this.subscribers) subscriber.state = "closed";
    this.draw();
  }
}

const seconds = (ns, since) => `${((ns - since) / 1e9).toFixed(3)} s`;

function table({ subscribers }) {
  const row = (kind, texts) => make("tr", {}, ...texts.map((text) => make(kind, {}, String(text))));
  return make(
    "table",
    {},
    make("caption", {}, "Subscribers in this page"),
    row("th", ["subscriber", "state", "events", "last id", "reconnects"]),
    ...subscribers.map((s) => row("td", [s.number, s.state, s.received, s.last ?? "none", s.reconnects])),
  );
}

function list(title, lines) {
  return make("div", {}, make("p", {}, title), make("ol", {}, ...lines.map((line) => make("li", {}, line))));
}

function render({ model, el }) {
  const place = new Place(model, el);
  let trial = null;
  const draw = () => {
    if (!trial) return;
    const since = model.get("since_ns"), asked = model.get("asked").slice(-SHOWN).reverse();
    const events = trial.events.map(({ at, id, number }) => `${seconds(at, since)}: ${id}, subscriber ${number}`);
    const lists = [list("Last events to arrive", since ? events : [])];
    if (asked.length) lists.push(list("Connections, as the producer saw them", asked));
    el.replaceChildren(table(trial), make("div", { className: "labkit-lists" }, ...lists));
  };
  const obey = () => {
    trial?.close();
    const task = model.get("task");
    if (task.view !== place.view) return;
    trial = new Trial(task, (message) => place.tell({ task: task.id, ...message }), draw);
    trial.start();
    draw();
  };
  const mark = () => trial?.mark(model.get("mark"));
  const end = () => {
    if (trial) trial.ends = model.get("ends");
  };
  el.classList.add("labkit-consumer");
  model.on("change:task", obey);
  model.on("change:asked", draw);
  model.on("change:mark", mark);
  model.on("change:ends", end);
  return () => {
    model.off("change:task", obey);
    model.off("change:asked", draw);
    model.off("change:mark", mark);
    model.off("change:ends", end);
    trial?.close();
    place.close();
  };
}

export default { render };
