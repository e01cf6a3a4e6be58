// What decisions do to clusters: the rules of eagc_jax.gcd.decisions, for what is shown.

const FILE_VERSION = 1;

class Wrong extends Error {}

// Where every item is after some decisions. Throws Wrong if they contradict each other.
//
// base: ids, clusters (number of each item), labels (-1 for none), names, numKnown, named
// (other clusters that have got a name before), and hidden and hiddenLabeled (how many items
// of each cluster are not on the page).
function replay(base, decisions) {
  const state = {
    clusterOf: base.clusters.map((k) => base.names[k]), // null for junk
    accepted: base.labels.map((label) => label >= 0),
    firm: base.labels.map((label) => label >= 0), // labeled, or decided on the item itself
    clusters: new Map(base.names.map((name, k) => [name, {
      origins: [k],
      free: base.hidden[k] - base.hiddenLabeled[k],
      labeled: base.hiddenLabeled[k],
      isKnown: k < base.numKnown,
      isNamed: k < base.numKnown || base.named.includes(k),
      parts: null,
    }])),
    together: [],
    apart: [],
    junk: 0, // items that are not on the page
  };
  const at = new Map(base.ids.map((id, item) => [id, item]));
  for (const decision of decisions) RULES[decision.action](state, decision, at);
  check(state, base);
  return state;
}

const RULES = {
  rename: (state, { cluster, name }) => join(state, [cluster], name),
  merge: (state, { clusters, name }) => join(state, clusters, name),
  split(state, { cluster, names }) {
    const found = clusterOf(state, cluster);
    for (const name of names) checkFree(state, name, [cluster]);
    const members = membersOf(state, cluster);
    const size = members.length + found.free + found.labeled;
    if (size < names.length) {
      throw new Wrong(`${cluster} has ${count(size, "item", "items")}, too few for ${names.length} parts`);
    }
    const joined = names.join(" + ");
    for (const item of members) {
      state.clusterOf[item] = joined;
      state.accepted[item] = true;
      state.firm[item] = false;
    }
    state.clusters.delete(cluster);
    state.clusters.set(joined, { ...found, isNamed: true, parts: names });
  },
  together: (state, { items }, at) => state.together.push(numbers(state, items, at)),
  apart: (state, { items }, at) => state.apart.push(numbers(state, items, at)),
  known(state, decision, at) {
    const name = decision.class;
    const target = state.clusters.get(name);
    if (!target || !target.isNamed) throw new Wrong(`there is no known class ${name}`);
    for (const id of decision.items ?? []) put(state, at.get(id), name, true);
    if (decision.cluster === undefined) return;
    const found = clusterOf(state, decision.cluster);
    for (const item of membersOf(state, decision.cluster)) {
      if (!state.firm[item]) put(state, item, name, false);
    }
    if (found === target) return;
    target.free += found.free;
    found.free = 0;
    leave(state, decision.cluster);
  },
  junk(state, decision, at) {
    for (const id of decision.items ?? []) put(state, at.get(id), null, false);
    if (decision.cluster === undefined) return;
    const found = clusterOf(state, decision.cluster);
    for (const item of membersOf(state, decision.cluster)) {
      if (!state.firm[item]) put(state, item, null, false);
    }
    state.junk += found.free;
    found.free = 0;
    leave(state, decision.cluster);
  },
};

function clusterOf(state, name) {
  const found = state.clusters.get(name);
  if (!found) throw new Wrong(`there is no cluster ${name}`);
  if (found.parts) throw new Wrong(`${name} is to be split by the next run; undo that first`);
  return found;
}

function membersOf(state, name) {
  const members = [];
  state.clusterOf.forEach((one, item) => {
    if (one === name) members.push(item);
  });
  return members;
}

function put(state, item, name, firm) {
  state.clusterOf[item] = name;
  state.firm[item] = firm;
  state.accepted[item] = name !== null;
}

// Nothing is left of a cluster that is no class.
function leave(state, name) {
  if (!state.clusters.get(name).isNamed) state.clusters.delete(name);
}

function join(state, names, name) {
  const found = names.map((one) => clusterOf(state, one));
  checkFree(state, name, names);
  for (const one of names) {
    for (const item of membersOf(state, one)) {
      state.clusterOf[item] = name;
      state.accepted[item] = true;
    }
  }
  const sum = (key) => found.reduce((total, one) => total + one[key], 0);
  // In the place of the first.
  const order = [...state.clusters].map(([one, value]) => (one === names[0]
    ? [name, {
      origins: found.flatMap((each) => each.origins),
      free: sum("free"),
      labeled: sum("labeled"),
      isKnown: found.some((each) => each.isKnown),
      isNamed: true,
      parts: null,
    }] : [one, value])).filter(([one]) => one === name || !names.includes(one));
  state.clusters = new Map(order);
}

function checkFree(state, name, own) {
  const all = [...state.clusters].flatMap(([one, { parts }]) => [one, ...(parts ?? [])]);
  if (all.includes(name) && !own.includes(name)) {
    throw new Wrong(`${name} is another class or cluster already; to make them one, merge them`);
  }
}

function numbers(state, ids, at) {
  const items = ids.map((id) => at.get(id));
  const junk = items.find((item) => state.clusterOf[item] === null);
  if (junk !== undefined) throw new Wrong(`${ids[items.indexOf(junk)]} is junk, which takes no part`);
  return items;
}

// Groups of items that belong together, by item: the same list for all of one group.
function groupsOf(together) {
  const group = new Map();
  for (const items of together) {
    const all = new Set(items.flatMap((item) => group.get(item) ?? [item]));
    for (const item of all) group.set(item, [...all]);
  }
  return group;
}

function check(state, base) {
  const isJunk = (item) => state.clusterOf[item] === null;
  const group = groupsOf(state.together);
  const shown = (one, other) => `${base.ids[one]} and ${base.ids[other]}`;
  for (const items of new Set(group.values())) {
    const firm = items.filter((item) => state.firm[item] && !isJunk(item));
    const other = firm.find((item) => state.clusterOf[item] !== state.clusterOf[firm[0]]);
    if (other !== undefined) {
      throw new Wrong(`${shown(firm[0], other)} would belong together, but one is of the class ${state.clusterOf[firm[0]]}, the other of ${state.clusterOf[other]}`);
    }
  }
  for (const items of state.apart) {
    items.forEach((one, index) => {
      for (const other of items.slice(index + 1)) {
        if (isJunk(one) || isJunk(other)) continue;
        if (group.get(one)?.includes(other)) {
          throw new Wrong(`${shown(one, other)} were decided both to belong together and not to`);
        }
        if (firmClass(state, group, one) !== null && firmClass(state, group, one) === firmClass(state, group, other)) {
          throw new Wrong(`${shown(one, other)} would not belong together, but both are of the class ${firmClass(state, group, one)}`);
        }
      }
    });
  }
}

// The class that an item has for certain, also by those that it belongs together with.
function firmClass(state, group, item) {
  const firm = (group.get(item) ?? [item]).find((one) => state.firm[one] && state.clusterOf[one] !== null);
  return firm === undefined ? null : state.clusterOf[firm];
}

// The file for the next run: clusters are told by the members that they had.
function fileOf(data, decisions) {
  const mentioned = new Set(decisions.flatMap((one) => one.clusters ?? [one.cluster]));
  const clusters = {};
  data.names.forEach((name, k) => {
    if (!mentioned.has(name)) return;
    const members = data.items.ids.filter((_, item) => data.items.clusters[item] === k);
    Object.defineProperty(clusters, name, {
      value: [...members, ...data.clusters[k].more], enumerable: true, configurable: true, writable: true,
    });
  });
  return {
    written_by: "eagc_jax", kind: "decisions", version: FILE_VERSION,
    run: data.run, clusters, decisions, earlier: data.earlier,
  };
}

// A name for a class, or Wrong; white space of all kinds is a space.
function checkedName(text) {
  const name = text.replace(/\s+/gu, " ").trim();
  if (!name) throw new Wrong("a name is needed");
  if ([...name].length > 200) throw new Wrong("a name has at most 200 characters");
  if (/[\p{C}\p{Zl}\p{Zp}]/u.test(name)) throw new Wrong("a name has no control characters");
  if (name === "junk") throw new Wrong("a class can't be called junk: use the button Junk");
  return name;
}
