// Cards of items, in lists that grow when asked to.

const PAGE = 60;

function pictureOf(item, properties = {}) {
  const picture = items.pictures?.[item];
  return picture
    ? make("img", { src: `data:image/webp;base64,${picture}`, alt: "", loading: "lazy", ...properties })
    : null;
}

const placeOf = (item) => model.state.clusterOf[item] ?? "junk";

// A card: the item, which a press selects, and a way to its cluster.
function card(item, note) {
  const text = items.texts?.[item];
  const sure = items.probability[item];
  const press = button("", () => {
    toggle(model.selected, item);
    say(`${count(model.selected.size, "item", "items")} selected`);
    changed();
  }, { "aria-pressed": "false", "data-item": item });
  press.append(...[
    pictureOf(item),
    text ? make("span", { class: "text", text }) : null,
    make("span", { class: "id", text: items.ids[item] }),
    make("span", { class: "id", text: note ?? "" }),
  ].filter(Boolean));
  const where = button("", () => {
    if (model.state.clusterOf[item] !== null) openCluster(placeOf(item));
  }, { class: "where" });
  const node = make("li", { class: "item" }, press, where);
  node.refresh = () => {
    press.setAttribute("aria-pressed", String(model.selected.has(item)));
    const label = items.labels[item] >= 0 ? ", labeled" : model.state.accepted[item] ? ", accepted" : "";
    where.textContent = `${placeOf(item)}${label || (sure === null ? "" : `, ${percent(sure)}`)}`;
    where.setAttribute("aria-label", `${items.ids[item]} is in ${where.textContent}: open the cluster`);
    where.disabled = model.state.clusterOf[item] === null;
  };
  node.refresh();
  return node;
}

const cards = new Set(); // those in the page, to be refreshed
function listOf(found, { notes = new Map(), label } = {}) {
  const list = make("ul", { class: items.texts ? "items words" : "items", "aria-label": label });
  const more = button("", () => grow(), { class: "more" });
  let length = 0;
  function grow() {
    const next = found.slice(length, length + PAGE).map((item) => card(item, notes.get(item)));
    length += next.length;
    next.forEach((node) => cards.add(node));
    list.append(...next);
    more.hidden = length >= found.length;
    more.textContent = `Show more of ${count(found.length, "item", "items")}`;
  }
  grow();
  return make("div", {}, list, more);
}

onChange(() => {
  for (const node of cards) {
    if (node.isConnected) node.refresh();
    else cards.delete(node);
  }
});

function selectAll(found) {
  return button(`Select ${count(found.length, "item", "items")}`, () => {
    found.forEach((item) => model.selected.add(item));
    say(`${count(model.selected.size, "item", "items")} selected`);
    changed();
  });
}
