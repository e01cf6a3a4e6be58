// Elements, made without any markup in strings: what comes from the data is only text.

const $ = (id) => document.getElementById(id);

// A node of a kind, with properties (class, text, on, or attributes) and children.
function make(kind, properties = {}, ...children) {
  const node = document.createElement(kind);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function button(text, onclick, properties = {}) {
  return make("button", { type: "button", text, on: { click: onclick }, ...properties });
}

function say(message, wrong = false) {
  $("said").textContent = message;
  $("said").classList.toggle("wrong", wrong);
}

const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(0)} %`);

// The colour of a CSS variable, as it is in light or dark.
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isDark = matchMedia("(prefers-color-scheme: dark)");
