// Controls: sliders, lists, keys, pointer; each only changes the view.
const KEYS = [
  ["arrows", "move the pointer by a token (with Shift: by four)"],
  ["click, Enter", "hold the pointer, or let it go (Esc)"],
  ["j k", "previous, next site"],
  [", .", "previous, next step"],
  ["s", "mean of all steps, or one step"],
  ["n m", "previous, next head (before the first: the mean of all heads)"],
  ["b", "branch of the guidance: prompt or negative prompt"],
  ["x", "attention to pixels or to words"],
  ["r", "what the pixel looks at, or which pixels look at it"],
  ["v", "next values: probabilities, logits, change"],
  ["[ ]", "previous, next word"],
  ["d", "what the second picture shows"],
  ["c", "best matches between cells, as lines"],
  ["q", "next run, where the page holds several"],
  ["o", "the map over the picture, on or off"],
  ["z", "colour scale: linear or square root"],
  ["t", "theme: as the system, light, dark"],
  ["l", "link to this view"],
  ["e", "save this view as PNG"],
  ["i", "what this page holds, and what was left out"],
  ["?", "these keys"],
];

const layersHere = () => sitesOf(state.source, state.kind).map(short);
const headsList = () => [-1, ...headsHere()];
const wordCount = () => wordGroup()?.columns.length ?? 0;

function setRange(input, count, at, first = 0) {
  input.min = first;
  input.max = first + count - 1;
  input.value = at;
  input.disabled = count < 2;
}

/** Brings every control to the view. */
function drawControls() {
  const source = sources[state.source];
  document.querySelectorAll("[data-kind]").forEach((button) => {
    button.setAttribute("aria-pressed", button.dataset.kind === state.kind);
    button.disabled = !sitesOf(state.source, button.dataset.kind).length;
  });
  document
    .querySelectorAll("[data-direction]")
    .forEach((button) => button.setAttribute("aria-pressed", button.dataset.direction === state.direction));
  find("direction-control").hidden = state.kind !== "self";
  find("lines-control").hidden = state.kind !== "self";
  find("source-control").hidden = sources.length < 2;
  options(
    find("view"),
    viewsHere().map((view) => [view, VIEWS[state.kind][view]]),
    state.view,
  );
  const layers = layersHere();
  const site = currentSite();
  setRange(find("site"), layers.length, layers.indexOf(state.layer));
  const acts = site.acts ? (site.kind === "self" ? ", SAC" : ", CAM") : "";
  find("site-text").textContent = `${site.layer} ${short(site)} (${site.hw[0]} × ${site.hw[1]}${acts})`;
  find("site").setAttribute("aria-valuetext", find("site-text").textContent);
  const steps = stepsHere();
  const mean = state.step === "mean";
  setRange(find("step"), steps.length, mean ? 0 : steps.indexOf(state.step));
  find("step").disabled ||= mean;
  find("mean-steps").checked = mean;
  find("mean-steps").disabled = steps.length < 2;
  find("step-text").textContent = mean
    ? `mean of ${steps.length}`
    : state.step < 0
      ? "all steps"
      : `${state.step} (t ${source.times[state.step]})`;
  find("step").setAttribute("aria-valuetext", find("step-text").textContent);
  const heads = headsList();
  setRange(find("head"), heads.length, heads.indexOf(state.head));
  find("head-text").textContent =
    state.head >= 0 ? `${state.head} of ${site.heads}` : site.heads === 1 ? "the only one" : `mean of ${site.heads}`;
  find("head").setAttribute("aria-valuetext", find("head-text").textContent);
  options(
    find("branch"),
    branchesHere().map((branch) => [branch, branch === "text" ? "prompt" : "negative"]),
    state.branch,
  );
  options(
    find("source"),
    sources.map((one, i) => [String(i), one.label]),
    String(state.source),
  );
  options(
    find("beside"),
    besideHere().map((name) => [name, BESIDE[name] ?? sources[+name.slice(3)].label]),
    state.beside,
  );
  options(
    find("lines"),
    LINES.map((spec) => [spec, spec === "off" ? "off" : spec.replace(">", " to ")]),
    state.lines,
  );
  find("scale").value = state.scale;
}

/** Connects everything once. */
function connect() {
  document.querySelectorAll("[data-kind]").forEach((b) => b.addEventListener("click", () => go({ kind: b.dataset.kind })));
  document
    .querySelectorAll("[data-direction]")
    .forEach((b) => b.addEventListener("click", () => go({ direction: b.dataset.direction })));
  for (const name of ["view", "branch", "source", "beside", "lines", "scale"])
    find(name).addEventListener("change", (e) => go({ [name]: e.target.value }));
  find("site").addEventListener("input", (e) => go({ layer: layersHere()[+e.target.value] }));
  find("step").addEventListener("input", (e) => go({ step: stepsHere()[+e.target.value] }));
  find("mean-steps").addEventListener("change", (e) => go({ step: e.target.checked ? "mean" : stepsHere()[0] }));
  find("head").addEventListener("input", (e) => go({ head: headsList()[+e.target.value + 0] }));
  find("strip").addEventListener(
    "click",
    (e) => e.target.closest("[data-site]") && go({ layer: e.target.closest("[data-site]").dataset.site }),
  );
  find("words").addEventListener(
    "click",
    (e) => e.target.closest("[data-word]") && go({ kind: "cross", word: +e.target.closest("[data-word]").dataset.word }),
  );
  for (const id of ["notes", "help", "link"])
    find(`${id}-button`).addEventListener("click", () => ACTIONS[{ notes: "i", help: "?", link: "l" }[id]]());
  find("theme-button").addEventListener("click", () => ACTIONS.t());
  find("png-button").addEventListener("click", () => ACTIONS.e());
  panels.forEach((panel) => {
    panel.canvas.addEventListener("pointermove", (e) => pointed(panel, e, false));
    panel.canvas.addEventListener("pointerdown", (e) => pointed(panel, e, true));
  });
  document.addEventListener("keydown", pressed);
  window.addEventListener("resize", schedule);
  followAddress();
}

/** The picture was pointed at: the pointer follows unless it is held; a click holds it or lets it go. */
function pointed(panel, event, click) {
  const box = panel.canvas.getBoundingClientRect();
  const [height, width] = sources[state.source].size;
  const x = Math.floor(((event.clientX - box.left) / box.width) * width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * height);
  if (panel.map !== null) {
    const token = tokenAt(panel.map.hw, (x + 0.5) / width, (y + 0.5) / height);
    panel.under.textContent = `under the cursor ${figureOf(panel.map.values[token])} at ${placeText(token, panel.map.hw)}`;
  }
  if (click) {
    go({ x, y, held: !state.held });
    panels[0].canvas.focus({ preventScroll: true });
  } else if (!state.held && (x !== state.x || y !== state.y)) {
    measured = event.timeStamp;
    go({ x, y });
  }
}

const ACTIONS = {
  j: () => go({ layer: stepIn(layersHere(), state.layer, -1) }),
  k: () => go({ layer: stepIn(layersHere(), state.layer, 1) }),
  ",": () => go({ step: stepIn(stepsHere(), state.step, -1) }),
  ".": () => go({ step: stepIn(stepsHere(), state.step, 1) }),
  s: () => go({ step: state.step === "mean" ? stepsHere()[0] : "mean" }),
  n: () => go({ head: stepIn(headsList(), state.head, -1) }),
  m: () => go({ head: stepIn(headsList(), state.head, 1) }),
  b: () => go({ branch: round(branchesHere(), state.branch) }),
  x: () => go({ kind: state.kind === "self" ? "cross" : "self" }),
  r: () => go({ direction: state.direction === "from" ? "to" : "from" }),
  v: () => go({ view: round(viewsHere(), state.view) }),
  "[": () => go({ kind: "cross", word: Math.max(0, state.word - 1) }),
  "]": () => go({ kind: "cross", word: Math.min(wordCount() - 1, state.word + 1) }),
  d: () => go({ beside: round(besideHere(), state.beside) }),
  c: () => go({ lines: round(LINES, state.lines) }),
  q: () => go({ source: (state.source + 1) % sources.length }),
  o: () => go({ overlay: !state.overlay }),
  z: () => go({ scale: state.scale === "sqrt" ? "linear" : "sqrt" }),
  t: () => go({ theme: round(THEMES, state.theme) }),
  l: () => showLink(),
  e: () => savePng(),
  i: () => find("notes").showModal(),
  "?": () => find("help").showModal(),
  Escape: () => go({ held: false }),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input, select, button");
  const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (arrow) {
    if (typing) return; // arrows of a slider or list are its own
    event.preventDefault();
    movePointer(arrow, event.shiftKey ? 4 : 1);
  } else if (event.key === "Enter" && !typing) {
    go({ held: !state.held });
  } else if (ACTIONS[event.key] && !(event.target.closest("select") && event.key.length === 1)) {
    event.preventDefault();
    ACTIONS[event.key]();
  }
}

/** Moves the pointer by tokens of the map that is pointed at, to a token's centre, and holds it. */
function movePointer([right, down], by) {
  const [height, width] = sources[state.source].size;
  const [rows, columns] = panels[0].map?.at ?? [64, 64];
  const row = Math.floor(((state.y + 0.5) * rows) / height) + by * down;
  const column = Math.floor(((state.x + 0.5) * columns) / width) + by * right;
  const inside = (value, count) => Math.min(count - 1, Math.max(0, value));
  go({
    x: Math.floor(((inside(column, columns) + 0.5) * width) / columns),
    y: Math.floor(((inside(row, rows) + 0.5) * height) / rows),
    held: true,
  });
}
