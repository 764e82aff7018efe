// What every page of Analogist shares: elements, lists of choices, the view in the address, theme, keys, and what went wrong.
// A page has `state` (the view), `NAMES` (what of it is in the address), `settle()` (brings it to what is there) and `draw()`.
const manifest = JSON.parse(document.getElementById("manifest").textContent);
const find = (id) => document.getElementById(id);
const element = (tag, text, change = {}) =>
  Object.assign(document.createElement(tag), text === undefined ? {} : { textContent: text }, change);

/** The entry `by` further in a list, stopping at its ends. */
function stepIn(list, value, by) {
  const at = list.findIndex((one) => one === value);
  return list[Math.min(list.length - 1, Math.max(0, (at < 0 ? 0 : at) + by))];
}
const round = (list, value) => list[(list.indexOf(value) + 1) % list.length];

/** Gives a select its [value, text] entries and its value. */
function options(select, entries, value) {
  const wanted = JSON.stringify(entries);
  if (select.dataset.entries !== wanted) {
    select.dataset.entries = wanted;
    select.replaceChildren(...entries.map(([name, text]) => element("option", text, { value: name })));
  }
  select.value = value;
  select.disabled = entries.length < 2;
}

/** The view as text for the address. */
function addressOf() {
  return "#" + NAMES.map((name) => `${encodeURIComponent(name)}=${encodeURIComponent(state[name])}`).join("&");
}

function readAddress() {
  for (const part of location.hash.slice(1).split("&")) {
    try {
      const [name, value] = part.split("=").map(decodeURIComponent);
      if (NAMES.includes(name) && value !== undefined) state[name] = value;
    } catch {
      continue; // not ours
    }
  }
}

let written = "";
let writing = 0;
function writeAddress() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    written = addressOf();
    try {
      history.replaceState(null, "", written);
    } catch {
      written = ""; // a frame without an address of its own: the link button still gives the text
    }
  }, 120);
}

let asked = 0;
function schedule() {
  if (!asked) asked = requestAnimationFrame(draw);
}

/** Changes the view. */
function go(change) {
  Object.assign(state, change);
  settle();
  writeAddress();
  schedule();
}

/** Follows links within the page and the system's light or dark. */
function followAddress() {
  window.addEventListener("hashchange", () => {
    if (location.hash === written) return;
    readAddress();
    go({});
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", schedule);
}

const THEMES = ["auto", "light", "dark"];
function showTheme() {
  const dark = state.theme === "dark" || (state.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

/** The view as the address of a link; shown where the clipboard is not to be had. */
function showLink() {
  const base = location.href.startsWith("about:") ? "" : location.href.split("#")[0];
  const text = base + addressOf();
  find("link-text").value = text;
  find("link").showModal();
  find("link-text").select();
  navigator.clipboard?.writeText(text).catch(() => {}); // then the text in the dialog is there to be copied
}

/** Fills the dialog of keys. */
function writeKeys(keys) {
  find("help-keys").append(
    ...keys.map(([key, text]) => {
      const row = element("tr");
      row.append(element("td", key), element("td", text));
      return row;
    }),
  );
}

/** Fills the dialog on the page's contents. parts: [name in the manifest's notes, heading]. */
function writeNotes(parts) {
  for (const [name, title] of parts) {
    const lines = manifest.notes[name] ?? [];
    if (!lines.length) continue;
    const list = element("ul");
    list.append(...lines.map((text) => element("li", text)));
    find("notes-text").append(element("h2", title), list);
  }
}

function fail(error) {
  find("problem").hidden = false;
  find("problem").textContent = `This page cannot be shown: ${error.message}. It needs a browser from 2023 or later.`;
}
