// What to look at first; how the answer came about; what was decided.

function showCheck() {
  const pairs = data.duplicates.map(([one, other, cosine]) => make("li", {},
    listOf([one, other], { label: "a pair of near-duplicates", notes: new Map([[other, `cosine ${cosine}`]]) }),
    button("Select both", () => {
      model.selected = new Set([one, other]);
      say("2 items selected");
      changed();
    })));
  const suspects = new Map(data.suspects.map(([item, k]) => [item, `lies in ${data.names[k]}`]));
  $("check").replaceChildren(
    ...part("Label suspects", suspects.size, data.notes.suspects,
      listOf([...suspects.keys()], { notes: suspects, label: "label suspects" })),
    ...part("Outliers", data.outliers.length, data.notes.outliers,
      listOf(data.outliers, { label: "outliers" })),
    ...part("Near-duplicates", pairs.length, data.notes.duplicates,
      make("ul", { class: "plain" }, ...pairs)));
}

function part(title, number, note, list) {
  return [make("h2", { text: `${title} (${number})` }), make("p", { class: "soft", text: note }),
    number ? list : make("p", { text: "None." })];
}

function interval(found) {
  const bar = make("div", { class: "interval", "aria-hidden": "true" }, make("i"), make("b"));
  const [low, expected, high] = found;
  bar.firstChild.style.left = `${100 * low}%`;
  bar.firstChild.style.width = `${100 * (high - low)}%`;
  bar.lastChild.style.left = `${100 * expected}%`;
  return bar;
}
const between = (found) => (found ? `${percent(found[1])} (${percent(found[0])} to ${percent(found[2])})` : "–");

function trustNodes() {
  const { rehearsal } = data;
  if (!rehearsal) {
    return [make("p", { text: "Nobody has rehearsed this answer: how far to trust it is not known." })];
  }
  const chosen = rehearsal.candidates.find((one) => one.name === rehearsal.chosen);
  return [
    make("p", { text: "Known classes were hidden and found again, to see how accurate an answer is to be expected where classes are novel; nine times in ten between these bounds." }),
    make("p", { text: `New: ${between(chosen.new)}` }), interval(chosen.new),
    make("p", { text: `Chosen: ${rehearsal.chosen}. ${rehearsal.reason}` }),
    table(["answer", "rehearsals", "New", "Old", "All"], rehearsal.candidates.map((one) => [
      one.name, one.trials, between(one.new), between(one.old), between(one.all)])),
    ...rehearsal.leftOut.map((text) => make("p", { class: "soft", text })),
  ];
}

function showTraining() {
  const { coordinator } = data;
  const nodes = [make("h2", { text: "How far to trust this" }), ...trustNodes(),
    make("h2", { text: "Number of classes" }),
    make("p", { text: classesText() })];
  if (data.classes.curve) nodes.push(figureOf(data.classes.curve));
  nodes.push(make("h2", { text: "Training" }));
  if (!data.curves.length) nodes.push(make("p", { text: "Nothing was trained: this is the first answer." }));
  nodes.push(...data.curves.map(figureOf));
  if (coordinator) {
    nodes.push(make("h2", { text: "What the coordinator decided" }), ...coordinator.curves.map(figureOf),
      make("details", {}, make("summary", { text: coordinator.title }),
        table(["layer", ...coordinator.objectives], coordinator.layers),
        coordinator.leftOut ? make("p", { text: `and ${coordinator.leftOut} more layers` }) : ""));
  }
  $("training").replaceChildren(...nodes);
}

function classesText() {
  const { number, low, high } = data.classes;
  const known = `${number} classes, ${data.numKnown} of them known`;
  return low === null ? `${known}.` : `${known}; estimated, likely ${low} to ${high}.`;
}

function showAbout() {
  const scores = data.scores.length
    ? [make("h2", { text: "Against the true classes, unlabeled items" }),
      table(data.scores.map(([name]) => name), [data.scores.map(([, value]) => value)])] : [];
  $("about").replaceChildren(
    make("h2", { text: "Protocol" }), ...data.protocol.map((text) => make("p", { text })),
    ...scores,
    ...(data.seconds.length ? [make("h2", { text: "Seconds" }), table(["stage", "seconds"], data.seconds)] : []),
    make("h2", { text: "Versions" }), table(["package", "version"], data.versions),
    make("h2", { text: "Settings" }), table(["name", "value"], data.settings));
}

const WORDS = {
  rename: (one) => `${one.cluster} is called ${one.name}`,
  merge: (one) => `${one.clusters.join(", ")} are one class, ${one.name}`,
  split: (one) => `${one.cluster} is split into ${one.names.join(", ")}`,
  together: (one) => `${few(one.items)} belong together`,
  apart: (one) => `${few(one.items)} don't belong together`,
  known: (one) => `${one.cluster ?? few(one.items)} is known: ${one.class}`,
  junk: (one) => `${one.cluster ?? few(one.items)} is junk`,
};
const few = (ids) => (ids.length > 3 ? `${ids.slice(0, 3).join(", ")} and ${ids.length - 3} more` : ids.join(", "));
const inWords = (decision) => WORDS[decision.action](decision);

function showDecisions() {
  const earlier = data.earlier.reduce((sum, one) => sum + one.decisions.length, 0);
  $("decisions").replaceChildren(
    make("h2", { text: count(model.decisions.length, "decision", "decisions") }),
    make("ol", { id: "log" }, ...model.decisions.map((one) => make("li", { text: inWords(one) }))),
    earlier ? make("p", { class: "soft", text: `The file also holds ${count(earlier, "decision", "decisions")} that this answer was made with.` }) : "",
    make("div", { class: "row" }, button("Undo the last", () => ACTIONS.undo()),
      button(`Save ${data.file}`, () => ACTIONS.save())),
    make("p", { text: "Save the file, then run:" }),
    make("pre", {}, make("code", { id: "command", text: data.command })),
    data.predict ? make("p", { text: "New items get the names that you have decided on, too:" }) : "",
    data.predict ? make("pre", {}, make("code", { text: data.predict })) : "",
    make("details", {}, make("summary", { text: "The file, to copy" }),
      make("textarea", { readonly: true, "aria-label": `content of ${data.file}`, id: "file-text" })));
  $("file-text").closest("details").addEventListener("toggle", () => {
    $("file-text").value = JSON.stringify(fileOf(data, model.decisions), null, 1);
  });
}
