// Puts it together.

function openTab(name, focus = false) {
  model.tab = name;
  changed({ tab: true });
  if (focus) $(`tab-${name}`).focus();
}

// Makes the panel anew; the focus stays on the same item or cluster, if that is still there.
function rebuild() {
  const panel = $(model.tab);
  const before = document.activeElement;
  const had = panel.contains(before) ? before : null;
  SHOW[model.tab]?.();
  if (!had || had.isConnected) return;
  const { item, cluster } = had.dataset;
  const same = [...panel.querySelectorAll("button")].find((one) => (
    (item !== undefined && one.dataset.item === item)
    || (cluster !== undefined && one.dataset.cluster === cluster)));
  (same ?? $(`tab-${model.tab}`)).focus({ preventScroll: true });
}

const SHOW = { clusters: showClusters, items: showItems, check: showCheck, decisions: showDecisions };

onChange((what) => {
  for (const tab of TABS) {
    $(tab).hidden = tab !== model.tab;
    $(`tab-${tab}`).setAttribute("aria-selected", String(tab === model.tab));
    $(`tab-${tab}`).tabIndex = tab === model.tab ? 0 : -1;
  }
  $("tab-decisions").textContent = `Decisions (${model.decisions.length})`;
  // Where only the selection changed, the lists stay, and what has the focus with them.
  if (what.decisions || what.opened || what.tab || what.filter) rebuild();
  if (model.tab === "training") drawCurves();
});

for (const tab of TABS) {
  $(`tab-${tab}`).addEventListener("click", () => openTab(tab));
  $(`tab-${tab}`).addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    openTab(TABS[(TABS.indexOf(tab) + by + TABS.length) % TABS.length], true);
  });
}

$("tools").addEventListener("submit", (event) => event.preventDefault());
$("query").addEventListener("input", () => {
  model.query = $("query").value.trim().toLowerCase();
  model.tab = model.query ? "items" : "clusters";
  changed({ filter: true });
});
$("filter").addEventListener("change", () => {
  model.filter = $("filter").value;
  if (model.filter === "uncertain") model.tab = "items";
  changed({ filter: true });
});

$("title").textContent = data.title;
$("summary").textContent = `${count(data.total, "item", "items")}; ${classesText()} ${data.notes.sampled}`;
$("trust").textContent = data.rehearsal
  ? `Expected accuracy on novel classes: ${between(data.rehearsal.candidates.find((one) => one.name === data.rehearsal.chosen).new)}.`
  : "How far to trust this was not rehearsed.";
showTraining();
showAbout();
const recalled = recall();
changed({ decisions: recalled > 0, tab: true });
if (recalled) say(`${count(recalled, "decision", "decisions")} of your last visit are here again`);
