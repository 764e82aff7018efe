// Starts the page and draws it again when the view changes: the upper table, the pairs below it, the chosen run beside them.
const KEYS = [
  ["1 2 3 4", "claims, effects, interactions, runs (those that this study has)"],
  ["m", "next metric"],
  ["j k", "next, previous row of the upper table"],
  [", .", "previous, next pair or run: its pictures are shown beside"],
  ["f", "to the first filter"],
  ["x", "clear all filters"],
  ["c", "copy the command that repeats the chosen run"],
  ["r", "open or close the record"],
  ["t", "theme: as the system, light, dark"],
  ["l", "link to this view"],
  ["i", "about this page: how numbers were computed, what was left out"],
  ["?", "these keys"],
];
let first = null; // ms from the start of loading to the first view
const upper = new Table("main-table");
const lower = new Table("pairs-table");

const metricOf = (name) => metrics.find((metric) => metric.name === name);
const chooseRun = (run, against) => go({ run: runs.id[run], against: against === undefined ? "" : runs.id[against] });

/** Columns of a table whose cells Python wrote, with a drawing of the interval. */
function writtenColumns(heads, scales) {
  const columns = heads.map((head, i) => ({
    name: head,
    kind: { claim: "text", verdict: "short" }[head],
    number: /difference|interval|^p|pairs|effect|change|reference|at its level/.test(head) && !/against/.test(head),
    value: (row) => (head === "difference" || head === "change" ? row.mean : numeric(row.cells[i])),
    cell: (row) => (head === "verdict" ? verdictOf(row, row.cells[i]) : row.cells[i]),
  }));
  const at = columns.findIndex((column) => column.name === "95 % interval");
  columns.splice(at, 0, {
    name: "drawn",
    head: "mean and interval",
    title: "mean and 95 % interval; the line is 0, shaded is what is too small to matter",
    value: (row) => row.mean,
    cell: (row) => intervalOf(row, scales.get(row.metric)),
  });
  return columns;
}

/** A cell's text as what it sorts by. */
function numeric(text) {
  return text !== "" && Number.isFinite(+text) ? +text : text;
}

function verdictOf(row, text) {
  const kind = ["supported", "contradicted"].includes(text) ? text : text.startsWith("no effect") ? "equal" : "open";
  return element("span", text, { className: kind, title: row.why });
}

/** Thumbnail, input, seed and the factors that runs differ in. */
function runColumns(of) {
  const varied = factors.map((factor, i) => [factor, i]).filter(([factor]) => factor.levels.length > 1);
  return [
    { name: "picture", head: "B'", value: (row) => runs.picture[of(row)], cell: (row) => thumbOf(of(row)) },
    { name: "input", value: (row) => inputs[runs.input[of(row)]].name, cell: (row) => inputs[runs.input[of(row)]].name },
    { name: "seed", number: true, value: (row) => runs.seed[of(row)], cell: (row) => runs.seed[of(row)] },
    ...varied.map(([factor, i]) => ({
      name: `factor ${factor.name}`,
      head: factor.name,
      title: factor.text,
      value: (row) => numeric(levelsOf(of(row))[i]),
      cell: (row) => levelsOf(of(row))[i],
    })),
  ];
}

const thumbOf = (run) => (runs.picture[run] === null ? "failed" : pictureOf(runs.picture[run], `B', ${runText(run)}`));

function valueColumn(metric, of, name, head) {
  return { name, head, number: true, title: metricOf(metric).text, value: (row) => values[metric][of(row)], cell: (row) => figureOf(values[metric][of(row)]) };
}

function drawUpper() {
  const { view } = state;
  find("main-table").className = view === "runs" ? "wide" : "";
  const resort = (sort) => go({ sort });
  if (view === "runs") {
    const here = [...Array(COUNT).keys()].filter((run) => passes(run));
    const of = (run) => run;
    const columns = [...runColumns(of), ...metrics.map(({ name }) => valueColumn(name, of, name, name))];
    find("main-title").textContent = `${here.length} of ${COUNT} runs`;
    find("main-text").textContent = "";
    const chosen = (run) => run === numberOf.get(state.run);
    upper.draw(columns, here, { sort: state.sort, chosen, choose: (run) => chooseRun(run), resort });
    return;
  }
  const rows = rowsHere();
  const scales = new Map(metrics.map(({ name }) => [name, scaleOf(rows.filter((row) => row.metric === name))]));
  const metric = metricOf(state.metric);
  const titles = {
    claims: "Claims",
    effects: `Effects on ${metric.name}`,
    interactions: `Interactions on ${metric.name}: how the effect of the first factor's level changes with the second factor's level`,
  };
  find("main-title").textContent = titles[view];
  find("main-text").textContent = view === "claims" ? "" : [metric.text, view === "effects" ? metric.warning : ""].filter(Boolean).join(" ");
  upper.draw(writtenColumns(manifest.heads[view], scales), rows, {
    sort: state.sort,
    chosen: (row) => view !== "interactions" && row === rows[+state.row],
    choose: (row) => view !== "interactions" && go({ row: String(rows.indexOf(row)), run: "", against: "" }),
    resort,
  });
}

function drawLower() {
  const row = state.view === "claims" || state.view === "effects" ? rowsHere()[+state.row] : undefined;
  find("pairs-section").hidden = row === undefined;
  find("left").className = row === undefined ? "whole" : "";
  if (row === undefined) return;
  const pairs = pairsOf(row);
  const total = comparisons[row.comparison].pairs.length;
  const choose = (pair) => chooseRun(pair.run, pair.against);
  const name = state.view === "claims" ? row.cells[0] : `${row.factor} ${row.level} against ${row.cells[2]}`;
  find("pairs-title").textContent = `Paired differences in ${row.metric}: ${name}`;
  const notDrawn = drawPoints(row, pairs, choose);
  const parts = [
    state.view === "claims" ? `${row.verdict}: ${row.why}.` : "",
    `${pairs.length} of ${total} pairs${pairs.length < total ? " pass the filters" : ""}.`,
    notDrawn ? `${notDrawn} of them are in the table, not among the points.` : "",
    pairs.length < total ? "Mean and interval are of all pairs." : "",
  ];
  find("pairs-text").textContent = parts.filter(Boolean).join(" ");
  const columns = [
    ...runColumns((pair) => pair.run),
    { name: "reference picture", head: "B' compared with", value: (pair) => runs.picture[pair.against], cell: (pair) => thumbOf(pair.against) },
    valueColumn(row.metric, (pair) => pair.run, "value", row.metric),
    valueColumn(row.metric, (pair) => pair.against, "reference value", "compared with"),
    { name: "difference", number: true, value: (pair) => pair.difference, cell: (pair) => figureOf(pair.difference, true) },
  ];
  lower.draw(columns, pairs, {
    sort: state.pairsort,
    chosen: (pair) => pair.run === numberOf.get(state.run) && pair.against === numberOf.get(state.against),
    choose,
    resort: (pairsort) => go({ pairsort }),
  });
}

function drawControls() {
  document
    .querySelectorAll("[data-view]")
    .forEach((button) => button.setAttribute("aria-pressed", button.dataset.view === state.view));
  const names = metrics.map(({ name }) => [name, name]);
  options(find("metric"), names, state.metric);
  find("metric").disabled ||= state.view === "claims" || state.view === "runs";
  for (const filter of FILTERS) {
    const select = find(`filter-${filter.name}`);
    options(select, filter.choices.map((choice) => [choice, choice === ALL ? "all" : choice]), state[filter.name]);
    select.parentElement.classList.toggle("set", state[filter.name] !== ALL);
  }
  find("clear").disabled = FILTERS.every(({ name }) => state[name] === ALL);
}

function draw() {
  asked = 0;
  const focusAgain = keepFocus();
  const scrolled = [...document.querySelectorAll(".scroll")].map((box) => [box, box.scrollTop]);
  showTheme();
  drawControls();
  drawUpper();
  drawLower();
  drawRun();
  for (const [box, top] of scrolled) box.scrollTop = top;
  upper.reveal();
  if (!find("pairs-section").hidden) lower.reveal();
  focusAgain();
  const said = find("chosen-title").textContent + ". " + find("chosen-text").innerText;
  if (find("live").textContent !== said) find("live").textContent = said;
  first ??= performance.now();
}

/** Remembers which row or head of a table has the focus, since tables are drawn anew; gives what brings it back. */
function keepFocus() {
  const active = document.activeElement;
  const table = active?.closest?.(".scroll")?.querySelector("table");
  if (!table) return () => {};
  const head = [...table.querySelectorAll("th button")].indexOf(active);
  return () => (head < 0 ? table.querySelector('[tabindex="0"]') : table.querySelectorAll("th button")[head])?.focus({ preventScroll: true });
}

const clearFilters = () => go(Object.fromEntries(FILTERS.map(({ name }) => [name, ALL])));

function connect() {
  viewsHere().forEach((view) => {
    const button = element("button", VIEWS[view], { type: "button" });
    button.dataset.view = view;
    button.addEventListener("click", () => show(view));
    find("views").append(button);
  });
  for (const filter of FILTERS) {
    const label = element("label", undefined, { className: "control" });
    const select = element("select", undefined, { id: `filter-${filter.name}` });
    const factor = factors.find(({ name }) => `factor ${name}` === filter.name);
    label.append(element("span", filter.label, { className: "name", title: factor?.text ?? "" }), select);
    select.addEventListener("change", () => go({ [filter.name]: select.value }));
    find("filters").append(label);
  }
  find("metric").addEventListener("change", (event) => go({ metric: event.target.value }));
  find("clear").addEventListener("click", clearFilters);
  find("copy").addEventListener("click", copyCommand);
  find("record").addEventListener("toggle", drawRun);
  for (const [id, key] of [["notes", "i"], ["help", "?"], ["link", "l"], ["theme", "t"]])
    find(`${id}-button`).addEventListener("click", () => ACTIONS[key]());
  document.addEventListener("keydown", pressed);
  window.addEventListener("resize", schedule);
  followAddress();
}

/** Changes between claims, effects, interactions and runs; what was sorted and chosen in one is not so in the next. */
function show(view) {
  if (view !== undefined && view !== state.view) go({ view, row: "0", sort: "", run: state.run, against: "" });
}

const pairsOrRuns = () => (find("pairs-section").hidden ? upper : lower);
const ACTIONS = {
  1: () => show(viewsHere()[0]),
  2: () => show(viewsHere()[1]),
  3: () => show(viewsHere()[2]),
  4: () => show(viewsHere()[3]),
  m: () => find("metric").disabled || go({ metric: round(metrics.map(({ name }) => name), state.metric) }),
  j: () => upper.step(1),
  k: () => upper.step(-1),
  ".": () => pairsOrRuns().step(1),
  ",": () => pairsOrRuns().step(-1),
  f: () => find("filters").querySelector("select")?.focus(),
  x: clearFilters,
  c: copyCommand,
  r: () => (find("record").open = !find("record").open),
  t: () => go({ theme: round(THEMES, state.theme) }),
  l: () => showLink(),
  i: () => find("notes").showModal(),
  "?": () => find("help").showModal(),
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("select, input");
  const row = event.target.closest(".scroll tbody tr");
  if (row && ["ArrowDown", "ArrowUp"].includes(event.key)) {
    event.preventDefault();
    (row.closest("table").id === "main-table" ? upper : lower).step(event.key === "ArrowDown" ? 1 : -1);
  } else if (row === event.target && event.key === "Enter") {
    row.click();
  } else if (ACTIONS[event.key] && !typing) {
    event.preventDefault();
    ACTIONS[event.key]();
  }
}

function writeTexts() {
  find("run").replaceChildren(element("b", manifest.study), ` ${manifest.question ? `${manifest.question} ` : ""}${manifest.facts}`);
  find("run").title = manifest.facts;
  find("notes-text").append(...manifest.about.map((text) => element("p", text)));
  writeNotes([
    ["holds", "What it holds"],
    ["left_out", "Left out"],
    ["moot", "Left out as moot"],
    ["missing", "Not measured"],
  ]);
  find("notes-text").append(element("p", `Made by Analogist ${manifest.analogist}. The same numbers are in report.md, effects.csv and table.csv.`));
  writeKeys(KEYS);
}

window.study = {
  state: () => ({ ...state }),
  go,
  first: () => first,
  pairs: () => pairsOf(rowsHere()[+state.row]).map(({ run, against, difference }) => [runs.id[run], runs.id[against], difference]),
  run: () => recordOf(numberOf.get(state.run)),
  busy: () => asked > 0,
};

try {
  readAddress();
  settle();
  writeTexts();
  connect();
  draw();
} catch (error) {
  fail(error);
}
