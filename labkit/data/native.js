// A subscriber in a page: its native EventSource, WebSocket or fetch. Follows reach.js, and comes before consumer.js.
const STAYED_MS = 300; // a proxy that finds nobody behind itself closes a socket sooner
const ID = /^\{"specversion":"1\.0","id":"(\d{8})"/;

class Subscriber {
  state = "connecting";
  received = 0;
  reconnects = 0;
  last = null;
  #wait = 0;
  #was = false;

  constructor(number, trial) {
    Object.assign(this, { number, trial, task: trial.task });
  }

  up() {
    this.#wait = 0;
    if (this.state === "open") return;
    this.reconnects += this.#was;
    this.#was = true;
    this.state = "open";
    this.trial.tell(this.number, "up");
  }

  down(state) {
    if (this.state === "open") this.trial.tell(this.number, "down");
    this.state = state;
  }

  // An event, a gap signal in its place, or whatever else came.
  event(raw, what = "event") {
    const at = this.trial.tell(this.number, what, raw);
    const id = ID.exec(raw)?.[1];
    if (!id || (this.task.recovers && this.last !== null && this.last >= id)) return;
    this.last = id;
    this.received++;
    this.trial.came({ at, id, number: this.number });
  }

  // A poll is told what is missing: it goes on with the oldest that there is.
  gap(raw) {
    this.event(raw, "gap");
    const oldest = Number(JSON.parse(raw).data.oldest);
    this.last = oldest ? String(oldest - 1).padStart(8, "0") : null;
  }

  query() {
    return this.task.recovers && this.last !== null ? `?after=${this.last}` : "";
  }

  // Between attempts that fail, the waits of the lab's own consumer: doubling, with jitter.
  pause() {
    const { retry, retry_limit: limit } = this.task.timings;
    const ms = this.#wait || retry * 1000;
    this.#wait = Math.min(ms * 2, limit * 1000);
    return sleep(ms * (0.5 + Math.random() / 2));
  }
}

function sse(me, url, signal) {
  const { silence, proxied } = me.task;
  let source, alarm;
  const open = () => {
    if (signal.aborted) return;
    me.state = "connecting";
    source = new EventSource(`${url}/events${me.query()}`);
    source.onopen = () => {
      me.up();
      listen();
    };
    source.onmessage = ({ data }) => {
      me.event(data);
      listen();
    };
    source.addEventListener("gap", ({ data }) => me.event(data));
    source.onerror = () => {
      // It connects again by itself, but an answer that is no event stream closes it for good.
      const forGood = source.readyState === EventSource.CLOSED;
      me.down(forGood ? "closed" : "connecting");
      if (forGood) me.pause().then(open);
    };
  };
  // A proxy may keep a stream open whose other end is gone, and heartbeats are not shown to a page.
  const listen = () => {
    clearTimeout(alarm);
    if (proxied) alarm = setTimeout(giveUp, silence * 1000);
  };
  const giveUp = () => {
    if (me.trial.ends && me.last === me.trial.ends) return; // it has all that there is
    source.close();
    me.down("closed");
    open();
  };
  signal.addEventListener("abort", () => {
    clearTimeout(alarm);
    source.close();
  });
  open();
}

function websocket(me, url, signal) {
  let socket, stayed;
  const open = () => {
    if (signal.aborted) return;
    me.state = "connecting";
    socket = new WebSocket(`${socketOf(url)}/${me.query()}`);
    // A proxy opens it before it asks the producer.
    socket.onopen = () => {
      if (me.task.proxied) stayed = setTimeout(() => me.up(), STAYED_MS);
      else me.up();
    };
    socket.onmessage = ({ data }) => {
      me.up();
      me.event(data);
    };
    socket.onclose = () => {
      clearTimeout(stayed);
      me.down("closed");
      me.pause().then(open);
    };
  };
  signal.addEventListener("abort", () => {
    clearTimeout(stayed);
    socket.close();
  });
  open();
}

async function polling(me, url, signal, held = false) {
  const { poll, hold, request } = me.task.timings;
  const every = held ? 0 : poll * 1000, limit = (request + (held ? hold : 0)) * 1000;
  let due = performance.now() + every * Math.random();
  while (!signal.aborted) {
    const headers = held && me.state === "open" ? { Prefer: `wait=${Math.round(hold)}` } : {};
    if (me.last !== null) headers["If-None-Match"] = `"${me.last}"`;
    const path = me.task.recovers ? `/events${me.query()}` : "/events/latest";
    try {
      const response = await fetch(url + path, { headers, signal: AbortSignal.any([signal, AbortSignal.timeout(limit)]) });
      const text = await response.text();
      if (response.status === 410) {
        me.gap(text);
        continue; // that was what is missing, and nothing yet of what there is
      }
      if (![200, 204, 304].includes(response.status)) throw new Error(`answered ${response.status}`);
      for (const raw of text.split("\n")) if (raw) me.event(raw);
      me.up();
      due += every;
      await sleep(Math.max(0, due - performance.now()));
    } catch {
      if (signal.aborted) return;
      me.down("connecting"); // no answer, or none to a poll: it asks again
      await me.pause();
    }
  }
}

const OPENERS = { sse, websocket, polling, longpolling: (...given) => polling(...given, true) };
