// What is shown and what was decided; whoever changes it calls `changed`.

const data = JSON.parse($("data").textContent);
const items = data.items;
const base = {
  ids: items.ids,
  clusters: items.clusters,
  labels: items.labels,
  names: data.names,
  numKnown: data.numKnown,
  named: data.named,
  hidden: data.clusters.map((one) => one.hidden),
  hiddenLabeled: data.clusters.map((one) => one.hiddenLabeled),
};

const TABS = ["clusters", "items", "check", "decisions", "training", "about"];

const model = {
  decisions: [],
  state: replay(base, []),
  selected: new Set(), // items
  checked: new Set(), // clusters, by name
  open: null, // a cluster's name
  query: "",
  filter: "all",
  tab: "clusters",
  shortcuts: true,
};

const listeners = [];
const onChange = (listener) => listeners.push(listener);

// After any change; `what` says whether decisions changed, which is more work.
function changed(what = {}) {
  if (what.decisions) {
    model.state = replay(base, model.decisions);
    for (const name of model.checked) if (!model.state.clusters.has(name)) model.checked.delete(name);
    if (model.open !== null && !model.state.clusters.has(model.open)) model.open = null;
    keep();
  }
  for (const listener of listeners) listener(what);
}

// Adds decisions, or throws Wrong and leaves all as it is.
function decide(...added) {
  replay(base, [...model.decisions, ...added]);
  model.decisions.push(...added);
  changed({ decisions: true });
}

function undo() {
  const last = model.decisions.pop();
  if (last) changed({ decisions: true });
  return last;
}

// A browser may forbid it, as some do for files: then the page forgets when it is closed.
const STORE = `eagc decisions ${data.key}`;
function keep() {
  try {
    localStorage.setItem(STORE, JSON.stringify(model.decisions));
  } catch { /* saved files don't depend on it */ }
}
function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORE) ?? "[]");
    replay(base, found);
    model.decisions = found;
    return found.length;
  } catch {
    return 0;
  }
}

const clusterNames = () => [...model.state.clusters.keys()];
const sizeOf = (name) => {
  const { free, labeled } = model.state.clusters.get(name);
  return membersOf(model.state, name).length + free + labeled;
};

const isUncertain = (item) => items.labels[item] < 0 && !model.state.accepted[item]
  && items.probability[item] !== null && items.probability[item] < data.uncertainBelow;

// Whether an item is one of those that search and filter leave.
function isShown(item) {
  const name = model.state.clusterOf[item];
  const cluster = name === null ? null : model.state.clusters.get(name);
  if (model.filter === "uncertain" && !isUncertain(item)) return false;
  if (model.filter === "known" && !cluster?.isNamed) return false;
  if (model.filter === "novel" && (!cluster || cluster.isNamed)) return false;
  return !model.query || textOf(item).includes(model.query);
}

const texts = new Map(); // of search, lower case
function textOf(item) {
  if (!texts.has(item)) {
    texts.set(item, `${items.ids[item]}\n${items.texts?.[item] ?? ""}`.toLowerCase());
  }
  return `${texts.get(item)}\n${(model.state.clusterOf[item] ?? "junk").toLowerCase()}`;
}
const shownItems = () => items.ids.map((_, item) => item).filter(isShown);

// Colours go round the circle by steps that never meet; dark and light need other ones.
function colorOf(name) {
  const cluster = name === null ? null : model.state.clusters.get(name);
  if (!cluster) return isDark.matches ? "#555" : "#bbb";
  const number = cluster.origins[0];
  return `hsl(${(number * 137.5) % 360} ${55 + (number % 3) * 15}% ${isDark.matches ? 65 : 42}%)`;
}

function toggle(set, value, on = !set.has(value)) {
  if (on) set.add(value);
  else set.delete(value);
}
