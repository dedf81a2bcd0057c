// What EventSource does and does not do, tried for real; the kernel is told figures. Follows reach.js.
const HEADER = "X-Labkit";
const MANY = 8; // connections tried to be open at once
const QUIET_MS = 700; // without another one that opens
const FIRST_MS = 5000; // until the first one
const LIMIT_MS = 8000; // for each thing that is tried

// Whether a header of the page's own arrives, given to EventSource and to fetch.
function headerOfEventSource(url, keep) {
  return new Promise((resolve) => {
    const source = keep(new EventSource(`${url}/asked`, { headers: { [HEADER]: "1" } }));
    source.onmessage = ({ data }) => resolve(HEADER.toLowerCase() in JSON.parse(data));
  });
}

async function headerOfFetch(url) {
  const text = await (await fetch(`${url}/asked`, { headers: { [HEADER]: "1" } })).text();
  return HEADER.toLowerCase() in JSON.parse(/^data: (.*)$/m.exec(text)[1]);
}

// After how many ms an EventSource whose stream ended is open again, and which Last-Event-ID it then named.
function reconnects(url, keep) {
  return new Promise((resolve) => {
    const source = keep(new EventSource(`${url}/ending`)), ids = [];
    let ended, opened;
    source.onerror = () => (ended = performance.now());
    source.onopen = () => (opened = performance.now());
    source.onmessage = ({ data }) => ids.push(JSON.parse(data)) === 2 && resolve({ ms: opened - ended, asked: ids[1] });
  });
}

// How many of many get open before no further one does.
async function together(open, keep) {
  let count = 0, changed = performance.now();
  for (let number = 0; number < MANY; number++) {
    keep(open()).onopen = () => {
      count++;
      changed = performance.now();
    };
  }
  while (count < MANY && performance.now() - changed < (count ? QUIET_MS : FIRST_MS)) await sleep(50);
  return count;
}

// One thing tried: what came of it, null when nothing did in time; whatever it opened is closed.
async function tried(what, ...given) {
  const kept = [], keep = (one) => (kept.push(one), one);
  const answer = await Promise.race([what(...given, keep).catch(() => null), sleep(LIMIT_MS).then(() => null)]);
  for (const one of kept) one.close();
  return answer;
}

async function facts(port) {
  const way = await reach(port);
  if (!way) return { reached: false };
  const url = way.to(port);
  return {
    reached: true,
    eventsource_header: await tried(headerOfEventSource, url),
    fetch_header: await tried(headerOfFetch, url),
    reconnect: await tried(reconnects, url),
    eventsources: await tried(together, () => new EventSource(`${url}/staying`)),
    websockets: await tried(together, () => new WebSocket(`${socketOf(url)}/socket`)),
    of: MANY,
  };
}

function render({ model, el }) {
  const place = new Place(model, el);
  const obey = async () => {
    const { id, view: chosen, page } = model.get("task");
    if (chosen === place.view) place.tell({ task: id, facts: await facts(page) });
  };
  model.on("change:task", obey);
  return () => {
    model.off("change:task", obey);
    place.close();
  };
}

export default { render };
