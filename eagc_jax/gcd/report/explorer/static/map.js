// The map: a point an item. Drag to move or to select, click or space to select one.

const map = (() => {
  const canvas = $("map");
  const frame = $("map-frame");
  const tip = $("tip");
  const view = { x: 0.5, y: 0.5, scale: 1 }; // of the map's middle; 1 shows all of it
  const size = { width: 1, height: 1 };
  let mode = "move";
  let drag = null; // { from, points } in pixels
  let hovered = null; // an item
  let cursor = null; // the item that arrow keys have come to
  const GRID = 10000;
  const NEAR = 16; // pixels

  const side = () => Math.min(size.width, size.height) * view.scale;
  const pixel = (item) => [
    (items.x[item] / GRID - view.x) * side() + size.width / 2,
    (view.y - items.y[item] / GRID) * side() + size.height / 2,
  ];

  function draw() {
    const ratio = devicePixelRatio || 1;
    size.width = frame.clientWidth;
    size.height = canvas.clientHeight;
    canvas.width = Math.round(size.width * ratio);
    canvas.height = Math.round(size.height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, size.width, size.height);
    const radius = Math.max(1.5, Math.min(5, 160 / Math.sqrt(items.ids.length) + view.scale / 3));
    const colors = new Map();
    const order = items.ids.map((_, item) => item);
    const visible = order.map(isShown);
    // What is looked for comes last, on top.
    for (const pass of [false, true]) {
      for (const item of order) {
        if (visible[item] !== pass) continue;
        const name = model.state.clusterOf[item];
        if (!colors.has(name)) colors.set(name, colorOf(name));
        const dim = !pass || (model.open !== null && name !== model.open);
        pen.globalAlpha = !pass ? 0.12 : dim ? 0.4 : 0.9;
        point(pen, item, colors.get(name), radius);
      }
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeStyle = color("--text");
    for (const item of model.selected) ring(pen, item, radius + 2);
    pen.strokeStyle = color("--accent");
    pen.lineWidth = 3;
    for (const item of [hovered, cursor]) if (item !== null) ring(pen, item, radius + 5);
    if (drag?.points.length > 1 && mode !== "move") outline(pen);
  }

  function point(pen, item, fill, radius) {
    const [x, y] = pixel(item);
    if (x < -9 || y < -9 || x > size.width + 9 || y > size.height + 9) return;
    pen.fillStyle = fill;
    pen.beginPath();
    if (items.clusters[item] < data.numKnown) pen.arc(x, y, radius, 0, 7);
    else {
      const half = radius * 1.25;
      pen.moveTo(x, y - half);
      pen.lineTo(x + half, y);
      pen.lineTo(x, y + half);
      pen.lineTo(x - half, y);
    }
    pen.fill();
  }

  function ring(pen, item, radius) {
    pen.beginPath();
    pen.arc(...pixel(item), radius, 0, 7);
    pen.stroke();
  }

  // What the drag encloses, in pixels.
  function polygon() {
    const points = drag.points;
    if (mode === "lasso") return points;
    const [[left, top], [right, bottom]] = [points[0], points.at(-1)];
    return [[left, top], [right, top], [right, bottom], [left, bottom]];
  }

  function outline(pen) {
    pen.lineWidth = 1.5;
    pen.strokeStyle = color("--accent");
    pen.setLineDash([5, 4]);
    pen.beginPath();
    polygon().forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    pen.stroke();
    pen.setLineDash([]);
  }

  function isInside([x, y], corners) {
    let inside = false;
    corners.forEach(([x1, y1], i) => {
      const [x2, y2] = corners.at(i - 1);
      if ((y1 > y) !== (y2 > y) && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
    });
    return inside;
  }

  function nearest([x, y], most = NEAR) {
    let best = null;
    let least = most ** 2;
    for (let item = 0; item < items.ids.length; item += 1) {
      const [px, py] = pixel(item);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least && isShown(item)) [best, least] = [item, distance];
    }
    return best;
  }

  function show(item) {
    tip.hidden = item === null;
    tip.replaceChildren();
    if (item === null) return;
    const name = model.state.clusterOf[item] ?? "junk";
    tip.append(...[pictureOf(item), make("div", { text: items.texts?.[item] }),
      make("div", { class: "soft", text: `${items.ids[item]}; ${name}` })].filter(Boolean));
    const [x, y] = pixel(item);
    tip.style.left = `${Math.max(0, Math.min(x + 12, size.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(0, y + 14 + tip.offsetHeight > size.height ? y - tip.offsetHeight - 12 : y + 14)}px`;
  }

  function zoom(times, [x, y] = [size.width / 2, size.height / 2]) {
    const scale = Math.max(0.5, Math.min(60, view.scale * times));
    const step = (1 / side()) * (1 - view.scale / scale);
    view.x += (x - size.width / 2) * step;
    view.y -= (y - size.height / 2) * step;
    view.scale = scale;
    redraw();
  }

  function whole() {
    Object.assign(view, { x: 0.5, y: 0.5, scale: 1 });
    redraw();
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag = { from: at(event), last: at(event), points: [at(event)], far: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = at(event);
    if (!drag) {
      hovered = nearest(here);
      show(hovered);
      redraw();
      return;
    }
    drag.far ||= Math.hypot(here[0] - drag.from[0], here[1] - drag.from[1]) > 4;
    if (mode === "move") {
      view.x -= (here[0] - drag.last[0]) / side();
      view.y += (here[1] - drag.last[1]) / side();
      show(null);
    }
    drag.last = here;
    drag.points.push(here);
    redraw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!drag) return;
    if (!drag.far) {
      const item = nearest(at(event));
      if (item !== null) choose(item);
    } else if (mode !== "move") {
      const corners = polygon();
      const found = shownItems().filter((item) => isInside(pixel(item), corners));
      if (!event.shiftKey) model.selected.clear();
      for (const item of found) model.selected.add(item);
      say(`${count(model.selected.size, "item", "items")} selected`);
      changed();
    }
    drag = null;
    redraw();
  });
  canvas.addEventListener("pointercancel", () => { drag = null; redraw(); });
  canvas.addEventListener("pointerleave", () => {
    hovered = null;
    show(null);
    redraw();
  });
  canvas.addEventListener("dblclick", (event) => {
    const item = nearest(at(event));
    if (item !== null && model.state.clusterOf[item] !== null) openCluster(model.state.clusterOf[item]);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), at(event));
  }, { passive: false });

  function choose(item) {
    toggle(model.selected, item);
    const now = model.selected.has(item) ? "selected" : "not selected";
    say(`${items.ids[item]} ${now}; ${count(model.selected.size, "item", "items")} selected`);
    changed();
  }

  // The nearest item that lies, more or less, in a direction.
  function go(dx, dy) {
    const [x, y] = cursor === null ? [size.width / 2, size.height / 2] : pixel(cursor);
    let best = null;
    let least = Infinity;
    for (const item of shownItems()) {
      const [px, py] = pixel(item);
      const ahead = (px - x) * dx + (py - y) * dy;
      const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (item === cursor || ahead <= 0.5 || aside > 2 * ahead) continue;
      if (ahead + 2 * aside < least) [best, least] = [item, ahead + 2 * aside];
    }
    if (best === null) return;
    cursor = best;
    const [px, py] = pixel(best);
    if (px < 0 || py < 0 || px > size.width || py > size.height) {
      [view.x, view.y] = [items.x[best] / GRID, items.y[best] / GRID];
    }
    show(best);
    say(`${items.ids[best]}, in ${model.state.clusterOf[best] ?? "junk"}`);
    redraw();
  }

  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = STEPS[event.key];
    if (step && event.shiftKey) {
      view.x += (step[0] * 0.1) / view.scale;
      view.y -= (step[1] * 0.1) / view.scale;
      redraw();
    } else if (step) go(...step);
    else if (event.key === " " && cursor !== null) choose(cursor);
    else if (event.key === "Enter" && cursor !== null && model.state.clusterOf[cursor] !== null) {
      openCluster(model.state.clusterOf[cursor]);
    } else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") whole();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  canvas.addEventListener("blur", () => {
    cursor = null;
    show(null);
    redraw();
  });

  for (const one of document.querySelectorAll("[data-mode]")) {
    one.addEventListener("click", () => {
      mode = one.dataset.mode;
      for (const other of document.querySelectorAll("[data-mode]")) {
        other.setAttribute("aria-pressed", String(other === one));
      }
    });
  }
  $("zoom-in").addEventListener("click", () => zoom(1.4));
  $("zoom-out").addEventListener("click", () => zoom(1 / 1.4));
  $("zoom-reset").addEventListener("click", whole);
  $("map-note").textContent = data.notes.map;
  new ResizeObserver(redraw).observe(frame);
  isDark.addEventListener("change", redraw);
  onChange(redraw);

  return { pixel, redraw };
})();
