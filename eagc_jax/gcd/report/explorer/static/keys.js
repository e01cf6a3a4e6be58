// Everything by single keys, where nobody is typing.

const KEYS = {
  r: ["rename the cluster", () => act("rename")],
  m: ["merge the checked clusters", () => act("merge")],
  s: ["split the cluster", () => act("split")],
  t: ["the selected items belong together", () => act("together")],
  a: ["the selected items don't belong together", () => act("apart")],
  k: ["items or cluster are of a known class", () => act("known")],
  j: ["items or cluster are junk", () => act("junk")],
  z: ["undo", () => act("undo")],
  w: ["save the file", () => act("save")],
  Escape: ["select nothing", () => act("clear")],
  n: ["next cluster", () => step(1)],
  p: ["previous cluster", () => step(-1)],
  c: ["check the open cluster, to merge it", () => checkOpen()],
  g: ["go to the map", () => $("map").focus()],
  f: ["next filter", () => nextFilter()],
  "/": ["search", () => $("query").focus()],
  "?": ["these keys", () => showKeys()],
};
TABS.forEach((tab, i) => {
  KEYS[String(i + 1)] = [tab, () => openTab(tab, true)];
});

function step(by) {
  const names = shownClusters();
  if (!names.length) return;
  const at = names.indexOf(model.open);
  openCluster(names[at < 0 ? (by > 0 ? 0 : names.length - 1) : (at + by + names.length) % names.length]);
}

function checkOpen() {
  if (model.open === null) return;
  toggle(model.checked, model.open);
  say(`${count(model.checked.size, "cluster", "clusters")} checked`);
  changed();
}

function nextFilter() {
  const select = $("filter");
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
  say(`Shown: ${select.selectedOptions[0].text}`);
}

function showKeys() {
  const single = make("input", { type: "checkbox", id: "single-keys" });
  single.checked = model.shortcuts;
  single.addEventListener("change", () => { model.shortcuts = single.checked; });
  ask("Keys", [
    table(["key", "what it does"], Object.entries(KEYS).map(([key, [text]]) => [key, text])),
    make("p", { text: "In lists, Tab goes on and space selects. On the map: arrow keys, space, Enter, + − 0; Shift with arrows moves the map." }),
    make("label", {}, single, " single keys work"),
  ], null);
}

function endSearch() {
  $("query").value = "";
  $("query").dispatchEvent(new Event("input"));
  $("query").blur();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if ($("dialog").open || event.target.closest?.("input:not([type=checkbox]), select, textarea")) {
    if (event.key === "Escape" && event.target === $("query")) endSearch();
    return;
  }
  if (!model.shortcuts && event.key !== "Escape") return;
  const found = KEYS[event.key];
  if (!found) return;
  event.preventDefault();
  found[1]();
});
$("help-button").addEventListener("click", showKeys);
