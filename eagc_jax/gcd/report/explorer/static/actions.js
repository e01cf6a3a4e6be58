// What a person can decide, and on what.

// Clusters that an action is about: those that are checked, else the open one.
function targets() {
  if (model.checked.size) return clusterNames().filter((name) => model.checked.has(name));
  return model.open === null ? [] : [model.open];
}
const chosen = () => [...model.selected].filter((item) => model.state.clusterOf[item] !== null);
const idsOf = (some) => some.sort((a, b) => a - b).map((item) => items.ids[item]);
const isOpenToAll = (names) => names.every((name) => !model.state.clusters.get(name).parts);
const classNames = () => clusterNames().filter((name) => {
  const { isNamed, parts } = model.state.clusters.get(name);
  return isNamed && !parts;
});

// Whether there is something to decide on.
const POSSIBLE = {
  rename: () => targets().length === 1 && isOpenToAll(targets()),
  merge: () => model.checked.size > 1 && isOpenToAll(targets()),
  split: () => targets().length === 1 && isOpenToAll(targets()) && sizeOf(targets()[0]) > 1,
  together: () => chosen().length > 1,
  apart: () => chosen().length > 1,
  known: () => model.selected.size > 0 || (targets().length === 1 && isOpenToAll(targets())),
  junk: () => chosen().length > 0 || (targets().length > 0 && isOpenToAll(targets())),
  undo: () => model.decisions.length > 0,
  save: () => model.decisions.length > 0,
  clear: () => model.selected.size > 0 || model.checked.size > 0,
};

const ACTIONS = {
  async rename() {
    const [cluster] = targets();
    const { input, node } = field(`New name of ${cluster}`, { value: cluster, maxlength: "200" });
    const found = await ask(`Rename ${cluster}`, [node, note("Its items are accepted: they are labeled with this class from the next run on.")],
      () => tried({ action: "rename", cluster, name: checkedName(input.value) }));
    finish(found, found?.name);
  },
  async merge() {
    const clusters = targets();
    const { input, node } = field("Name of the class", { value: clusters.find((name) => model.state.clusters.get(name).isNamed) ?? clusters[0], maxlength: "200" });
    const found = await ask(`Merge ${clusters.join(", ")}`, [node],
      () => tried({ action: "merge", clusters, name: checkedName(input.value) }));
    finish(found, found?.name);
  },
  async split() {
    const [cluster] = targets();
    const parts = field("Number of parts", { type: "number", min: "2", max: "1000", value: "2" });
    const names = field("Names, separated by commas (may be empty)", {});
    const found = await ask(`Split ${cluster}`, [parts.node, names.node, note("The next run divides its items, by k-means among themselves.")], () => {
      const given = names.input.value.split(",").map((one) => one.trim()).filter(Boolean).map(checkedName);
      const into = given.length || Number(parts.input.value);
      if (!Number.isInteger(into) || into < 2 || into > 1000) throw new Wrong("the number of parts is from 2 to 1000");
      const all = given.length ? given : Array.from({ length: into }, (_, i) => `${cluster}/${i + 1}`);
      if (new Set(all).size < into) throw new Wrong("the names must be different");
      return tried({ action: "split", cluster, into, names: all });
    });
    finish(found, found?.names.join(" + "));
  },
  together: () => finish(attempt({ action: "together", items: idsOf(chosen()) })),
  apart: () => finish(attempt({ action: "apart", items: idsOf(chosen()) })),
  async known() {
    const some = idsOf([...model.selected]);
    const what = some.length ? few(some) : targets()[0];
    const { input, node } = choice("Class", classNames());
    const found = await ask(`${what}: a known class`, [node], () => {
      if (some.length) return tried({ action: "known", items: some, class: input.value });
      const [cluster] = targets();
      // A class that is another one: its labeled items come along.
      if (model.state.clusters.get(cluster).isNamed && cluster !== input.value) {
        return tried({ action: "merge", clusters: [cluster, input.value], name: input.value });
      }
      return tried({ action: "known", cluster, class: input.value });
    });
    finish(found, some.length ? undefined : input.value);
  },
  junk() {
    const some = chosen();
    if (some.length) finish(attempt({ action: "junk", items: idsOf(some) }));
    else finish(attempt(...targets().map((cluster) => ({ action: "junk", cluster }))));
  },
  undo() {
    const last = undo();
    say(last ? `Taken back: ${inWords(last)}` : "There is nothing to take back");
  },
  save() {
    const text = `${JSON.stringify(fileOf(data, model.decisions), null, 1)}\n`;
    const link = make("a", { download: data.file, href: URL.createObjectURL(new Blob([text], { type: "application/json" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`Saved ${data.file}. Next: ${data.command}`);
  },
  clear() {
    model.selected.clear();
    model.checked.clear();
    say("Nothing is selected");
    changed();
  },
};

const note = (text) => make("p", { class: "soft", text });

// The decision, if it can be added; for dialogs, which show what is wrong.
function tried(decision) {
  replay(base, [...model.decisions, decision]);
  return decision;
}

function attempt(...decisions) {
  try {
    replay(base, [...model.decisions, ...decisions]);
    return decisions;
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    say(error.message, true);
    return null;
  }
}

// Adds what was decided; what it was about is not selected any more.
function finish(found, open) {
  if (!found) return;
  const added = [found].flat();
  const wasOpen = model.open;
  model.selected.clear();
  model.checked.clear();
  decide(...added);
  if (wasOpen !== null && open !== undefined && model.state.clusters.has(open)) {
    model.open = open;
    changed({ opened: true });
  }
  say(`Decided: ${added.map(inWords).join("; ")}`);
}

function act(name) {
  if (POSSIBLE[name]()) ACTIONS[name]();
  else say(HINTS[name], true);
}

const HINTS = {
  rename: "Open a cluster, or check one, to rename it",
  merge: "Check two clusters or more to merge them",
  split: "Open a cluster, or check one, to split it",
  together: "Select two items or more that belong together",
  apart: "Select two items or more that don't belong together",
  known: "Select items, or open a cluster, of a known class",
  junk: "Select items, or open a cluster, to leave out",
  undo: "There is nothing to take back",
  save: "There is nothing to save yet",
  clear: "Nothing is selected",
};

for (const one of document.querySelectorAll("[data-action]")) {
  one.addEventListener("click", () => act(one.dataset.action));
}

onChange(() => {
  for (const one of document.querySelectorAll("[data-action]")) one.disabled = !POSSIBLE[one.dataset.action]();
  const parts = [];
  if (chosen().length) parts.push(count(chosen().length, "item", "items"));
  if (model.checked.size) parts.push(count(model.checked.size, "checked cluster", "checked clusters"));
  else if (model.open !== null) parts.push(`cluster ${model.open}`);
  $("target").textContent = parts.length ? `On: ${parts.join(" and ")}` : "Select items, or open a cluster, to decide on them.";
});
