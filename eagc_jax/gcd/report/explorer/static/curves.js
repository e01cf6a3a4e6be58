// Curves, drawn by uPlot.

const curves = [];
const STROKES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9"];

function figureOf(curve) {
  const place = make("div", { role: "img", "aria-label": curve.title });
  const figure = make("figure", {}, make("figcaption", { text: curve.title }), place,
    tableOf(curve));
  curves.push({ curve, place, plot: null });
  return figure;
}

// The same for who can't see the curve.
function tableOf(curve) {
  const heads = [curve.label, ...curve.lines.map(([name]) => name)];
  const rows = curve.x.map((x, i) => [x, ...curve.lines.map(([, values]) => values[i])]);
  return make("details", {}, make("summary", { text: "as a table" }), table(heads, rows));
}

function table(heads, rows) {
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col", text })))),
    make("tbody", {}, ...rows.map((row) => make("tr", {},
      ...row.map((text) => make("td", { text: text === null ? "–" : String(text) })))))));
}

// Draws those that can be seen; in a hidden panel there is no width to draw on.
function drawCurves() {
  for (const one of curves) {
    const width = one.place.clientWidth;
    if (!width) continue;
    one.plot?.destroy();
    const { curve } = one;
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 } };
    one.plot = new uPlot({
      width,
      height: 220,
      scales: { x: { time: false } },
      axes: [{ ...axis, label: curve.label, labelSize: 22 }, { ...axis, size: 60 }],
      series: [{ label: curve.label }, ...curve.lines.map(([label], i) => ({
        label, stroke: STROKES[i % STROKES.length], width: 2, spanGaps: true,
        dash: i < STROKES.length ? undefined : [6, 4],
      }))],
    }, [curve.x, ...curve.lines.map(([, values]) => values)], one.place);
  }
}
isDark.addEventListener("change", drawCurves);
addEventListener("resize", drawCurves);
