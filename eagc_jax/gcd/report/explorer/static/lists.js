// The lists of clusters and of items, and one cluster in detail.

function badges(name) {
  const { isKnown, isNamed, parts } = model.state.clusters.get(name);
  const found = [make("span", {
    class: `badge ${isNamed ? "known" : "novel"}`,
    text: isKnown ? "known" : isNamed ? "named" : "novel",
  })];
  if (parts) found.push(make("span", { class: "badge changed", text: "to be split" }));
  return found;
}

// What a cluster looks like: its typical items, those that are still in it.
function typical(name, key = "medoids") {
  const { origins } = model.state.clusters.get(name);
  const found = origins.flatMap((k) => data.clusters[k][key]);
  return found.filter((item) => model.state.clusterOf[item] === name);
}

function clusterRow(name) {
  const check = make("input", {
    type: "checkbox",
    "aria-label": `Select cluster ${name}`,
    on: { change: () => { toggle(model.checked, name, check.checked); changed(); } },
  });
  check.checked = model.checked.has(name);
  check.dataset.check = name;
  const examples = typical(name).slice(0, 4);
  const sentence = items.texts && examples.length ? items.texts[examples[0]] : "";
  const swatch = make("span", { class: model.state.clusters.get(name).isNamed ? "swatch" : "swatch novel" });
  swatch.style.background = colorOf(name);
  const open = button("", () => openCluster(name), { class: "open", "data-cluster": name });
  open.append(
    make("span", { class: "name", text: name }), ...badges(name),
    make("span", { class: "soft", text: count(sizeOf(name), "item", "items") }),
    make("span", { class: "strip" }, ...examples.map((item) => pictureOf(item)).filter(Boolean)),
  );
  if (sentence) open.append(make("span", { class: "soft", text: sentence }));
  return make("li", { class: "cluster", "data-open": String(name === model.open) }, check, swatch, open);
}

// In the order of the lists: what is new comes first.
function shownClusters() {
  const counts = new Map();
  for (const item of shownItems()) {
    const name = model.state.clusterOf[item];
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const all = model.filter === "all" && !model.query;
  const found = clusterNames().filter((name) => all || counts.has(name) || (
    model.query && name.toLowerCase().includes(model.query)));
  const isNamed = (name) => model.state.clusters.get(name).isNamed;
  return [...found.filter((name) => !isNamed(name)), ...found.filter(isNamed)];
}

function showClusters() {
  const names = shownClusters();
  const novel = names.filter((name) => !model.state.clusters.get(name).isNamed);
  const named = names.filter((name) => model.state.clusters.get(name).isNamed);
  $("clusters").replaceChildren(...[
    model.open === null ? null : detail(model.open),
    make("h2", { text: `${count(novel.length, "novel cluster", "novel clusters")}` }),
    make("ul", { class: "plain" }, ...novel.map(clusterRow)),
    make("h2", { text: `${count(named.length, "known class", "known classes")}` }),
    make("ul", { class: "plain" }, ...named.map(clusterRow)),
  ].filter(Boolean));
}

function detail(name) {
  const members = membersOf(model.state, name);
  const sure = members.map((item) => items.probability[item]).filter((value) => value !== null);
  const mean = sure.length ? sure.reduce((a, b) => a + b, 0) / sure.length : null;
  const labeled = members.filter((item) => items.labels[item] >= 0).length
    + model.state.clusters.get(name).labeled;
  const rest = new Set([...typical(name), ...typical(name, "uncertain")]);
  const others = members.filter((item) => !rest.has(item));
  return make("section", { id: "detail", "aria-labelledby": "detail-name", "data-name": name },
    make("div", { class: "row" },
      make("h2", { id: "detail-name", text: name, tabindex: "-1" }), ...badges(name),
      make("span", { class: "space" }), selectAll(members),
      button("Close", () => { model.open = null; changed({ opened: true }); })),
    make("p", {
      class: "soft",
      text: `${count(sizeOf(name), "item", "items")}, ${labeled.toLocaleString("en")} labeled; mean probability ${percent(mean)}`,
    }),
    nearOf(name),
    section("Most typical", typical(name), name),
    section("Least certain", typical(name, "uncertain"), name),
    section("The others", others, name));
}

function section(title, found, name) {
  if (!found.length) return null;
  return make("div", {}, make("h3", { text: title }), listOf(found, { label: `${title}, ${name}` }));
}

// The nearest known classes, by the centres as they were.
function nearOf(name) {
  const { origins } = model.state.clusters.get(name);
  const best = new Map();
  for (const k of origins) {
    for (const [other, cosine] of data.clusters[k].near) {
      const now = [...model.state.clusters].find(([, one]) => one.origins.includes(other))?.[0];
      if (now !== undefined && now !== name) best.set(now, Math.max(best.get(now) ?? -1, cosine));
    }
  }
  if (!best.size) return null;
  return make("p", { class: "row" }, make("span", { text: "Nearest known classes:" }),
    ...[...best].map(([other, cosine]) => button(`${other} (cosine ${cosine.toFixed(2)})`, () => openCluster(other))));
}

function showItems() {
  const found = model.query || model.filter !== "all" ? shownItems() : [...model.selected];
  const title = model.query || model.filter !== "all"
    ? `${count(found.length, "item", "items")} found`
    : `${count(found.length, "item", "items")} selected`;
  $("items").replaceChildren(
    make("div", { class: "row" }, make("h2", { text: title }), found.length ? selectAll(found) : ""),
    found.length ? listOf(found, { label: title })
      : make("p", { class: "soft", text: "Search, filter, or select items on the map or in a cluster." }));
}

onChange(() => {
  for (const one of document.querySelectorAll("[data-check]")) one.checked = model.checked.has(one.dataset.check);
});

function openCluster(name) {
  model.open = name;
  model.tab = "clusters";
  changed({ opened: true });
  $("detail-name")?.focus({ preventScroll: true });
  $("detail")?.scrollIntoView({ block: "nearest" });
  say(`${name}, ${count(sizeOf(name), "item", "items")}`);
}
