// The pictures with their captions and scales, and the numbers beside them.
const panels = [0, 1].map((i) => {
  const figure = find(`panel-${i}`);
  const part = (name) => figure.querySelector(name);
  return {
    figure,
    canvas: part(".picture"),
    frame: part(".frame"),
    title: part(".title"),
    under: part(".under"),
    bar: part(".bar"),
    low: part(".low"),
    high: part(".high"),
    unit: part(".unit"),
    view: null,
    map: null,
    range: null,
  };
});

/** A number as text of three digits. */
function figureOf(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1000 || size < 1e-4) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.1 ? value.toFixed(3) : value.toPrecision(2);
}
const percent = (value) =>
  value >= 0.1
    ? `${(100 * value).toFixed(0)} %`
    : value >= 0.001
      ? `${(100 * value).toFixed(1)} %`
      : value > 0
        ? "< 0.1 %"
        : "0 %";

/** What is asked of the data for the view, with changes. */
function ask(change = {}) {
  const [height, width] = sources[state.source].size;
  const at = { x: (state.x + 0.5) / width, y: (state.y + 0.5) / height };
  return { ...state, site: siteName(), ...at, ...change };
}

/** The second picture as a change of the first; null for none. */
function besideAsk() {
  if (state.beside === "reverse") return { direction: state.direction === "from" ? "to" : "from", view: "probs" };
  if (state.beside === "before") return { view: state.kind === "self" ? "scores" : "before" };
  if (state.beside === "change") return { view: "change" };
  if (state.beside.startsWith("run")) {
    const source = +state.beside.slice(3);
    return { source, branch: state.branch };
  }
  return null;
}

const unitOf = (view) => (view === "change" ? "change" : view === "probs" || view === "before" ? "probs" : "logits");

/** What a picture shows, in words. */
function titleOf(want) {
  const view = VIEWS[want.kind][want.view];
  if (want.kind === "cross") return `“${wordGroup()?.columns[want.word] ?? ""}”: which pixels attend to it, ${view}`;
  return (want.direction === "from" ? "what the pixel looks at" : "which pixels look at it") + (want.view === "probs" ? "" : `, ${view}`);
}

const siteOf = (want) => sources[want.source].sites.find((site) => site.name === want.site);

function stepText(source, steps) {
  if (steps.length > 1) return `mean of ${steps.length} steps`;
  return steps[0] < 0 ? "all steps" : `step ${steps[0]}`;
}

/** Fits a canvas to its frame in the picture's shape; gives its size in real pixels. */
function fit(panel, source) {
  const [height, width] = sources[source].size;
  const all = find("panels");
  const count = panels.filter((one) => !one.figure.hidden).length;
  const narrow = matchMedia("(max-width: 900px)").matches; // then the page scrolls, and the width alone decides
  const side = Math.min(
    (all.clientWidth - 10 * (count - 1)) / count / width,
    narrow ? Infinity : (all.clientHeight - 40) / height,
  );
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.max(64, Math.floor(width * side * ratio)), Math.max(64, Math.floor(height * side * ratio))];
  if (panel.canvas.width !== w || panel.canvas.height !== h) {
    panel.canvas.width = w;
    panel.canvas.height = h;
    panel.canvas.style.width = `${w / ratio}px`;
    panel.canvas.style.height = `${h / ratio}px`;
    panel.figure.style.width = `${w / ratio}px`;
  }
  return [w, h];
}

/** Draws both pictures; gives the chunks that are missing. */
function drawPanels() {
  const second = besideAsk();
  const wants = [ask(), ...(second === null ? [] : [ask(second)])];
  panels[1].figure.hidden = second === null;
  const maps = wants.map((want) => mapOf(want));
  const missing = maps.flatMap((map) => map.missing ?? []);
  if (missing.length) return missing;
  const together =
    maps.length === 2 && unitOf(wants[0].view) === unitOf(wants[1].view) && wants[0].direction === wants[1].direction;
  const shared = together && maps.every((map) => map.values) ? rangeOf(maps, unitOf(wants[0].view)) : null;
  wants.forEach((want, i) => {
    const panel = panels[i];
    const map = maps[i].values ? maps[i] : null;
    const range = map && (shared ?? rangeOf([map], unitOf(want.view)));
    Object.assign(panel, { view: want, map, range });
    const [w, h] = fit(panel, want.source);
    const own = map ?? { at: [64, 64] };
    const point = { token: map && map.token >= 0 ? map.token : tokenAt(own.at, want.x, want.y), at: own.at };
    const context = panel.canvas.getContext("2d");
    drawPicture(context, w, h, want.source, map, range, point);
    if (state.kind === "self" && state.lines !== "off") drawLines(context, w, h, matchesOf(want, state.lines) ?? []);
    caption(panel, want, maps[i], map);
    legend(panel, map, range);
  });
  return [];
}

function caption(panel, want, given, map) {
  const idle = ["logits", "scores", "change", "before"].includes(want.view) && !siteOf(want)?.acts;
  const name = sources.length > 1 ? `${sources[want.source].label}: ` : "";
  panel.title.textContent =
    name + (map ? titleOf(want) : `${titleOf(want)}: ${given.absent}${idle ? ", where SAC or CAM does not act" : ""}`);
  panel.under.textContent = map ? `${stepText(want.source, map.steps)}, ${map.hw[0]} × ${map.hw[1]}` : "";
  panel.canvas.setAttribute("aria-label", `${panel.title.textContent}. ${panel.under.textContent}`);
}

/** What a colour's number is a number of. */
function unitText(view, map, range) {
  if (range.unit !== "probs") return range.unit === "change" ? "change: after − before" : "logit";
  const block = siteOf(view).hw[0] / map.hw[0];
  const even = map.token >= 0 && view.direction === "from" ? `; uniform attention: ${figureOf(1 / map.values.length)}` : "";
  return (block > 1 ? `per block of ${block} × ${block} tokens` : "per token") + even;
}

function legend(panel, map, range) {
  panel.bar.style.visibility = map ? "visible" : "hidden";
  panel.low.textContent = map ? figureOf(range.low) : "";
  panel.high.textContent = map ? figureOf(range.high) : "";
  panel.unit.textContent = map ? unitText(panel.view, map, range) : "";
  if (!map) return;
  const context = panel.bar.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, 256, 8);
  const strip = {
    hw: [1, 256],
    values: Float64Array.from({ length: 256 }, (_, i) => range.low + ((range.high - range.low) * i) / 255),
  };
  small.width = 256;
  small.height = 1;
  small.getContext("2d").putImageData(imageOf(strip, range, state.scale), 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, 256, 8);
}

const STYLES = ["in-A", "in-Ap", "in-B", "in-Bp"];

/** Where a token's centre lies, in pixels, and its cell: text. */
function placeText(token, hw) {
  const source = sources[state.source];
  const x = Math.round((((token % hw[1]) + 0.5) * source.size[1]) / hw[1]);
  const y = Math.round(((Math.floor(token / hw[1]) + 0.5) * source.size[0]) / hw[0]);
  return `${source.cells[cellOf(token, hw, source.rows)]} ${x}, ${y}`;
}

/** The pointed pixel in numbers: cell, shares of the cells, strongest places. Gives the sentence read aloud. */
function drawPointer() {
  const map = mapOf(ask({ kind: "self", site: `${state.layer}.self`, view: "probs" }));
  const source = sources[state.source];
  const here = map.values ? { token: map.token, at: map.at } : { token: tokenAt([64, 64], ask().x, ask().y), at: [64, 64] };
  const cell = source.cells[cellOf(here.token, here.at, source.rows)];
  find("pointer-title").textContent = state.held ? "Pointer, held" : "Pointer";
  const where = `${cell}, pixel ${state.x}, ${state.y}`;
  find("shares").replaceChildren();
  find("strongest").replaceChildren();
  if (!map.values) {
    find("pointer").textContent = where;
    find("shares").setAttribute("aria-label", "");
    return where;
  }
  const row = Math.floor(map.token / map.at[1]);
  const column = map.token % map.at[1];
  const from = state.direction === "from";
  const shares = sharesOf(map, source.rows);
  const total = shares.reduce((a, b) => a + b, 0) || 1;
  find("pointer").textContent =
    `${where}; token row ${row}, column ${column} of ${map.at[0]} × ${map.at[1]}. ` +
    (from ? "It looks at:" : "The attention it gets comes from:");
  const parts = shares.map((share, i) => `${source.cells[i]} ${percent(share / total)}`);
  shares.forEach((share, i) => {
    const bar = element("span", share / total > 0.09 ? parts[i] : "", { className: STYLES[regionOf(i, source.rows)], title: parts[i] });
    bar.style.width = `${(100 * share) / total}%`;
    find("shares").append(bar);
  });
  find("shares").setAttribute("aria-label", parts.join(", "));
  const order = [...map.values.keys()].sort((a, b) => map.values[b] - map.values[a]).slice(0, 6);
  for (const token of order) {
    const item = element("li");
    item.append(element("b", from ? percent(map.values[token]) : figureOf(map.values[token])), ` ${placeText(token, map.hw)}`);
    find("strongest").append(item);
  }
  return `${where}. ${from ? "Looks at" : "Looked at from"} ${parts.join(", ")}; most at ${placeText(order[0], map.hw)}.`;
}

/** The flow table of the site, cell by cell. */
function drawFlow() {
  const flow = flowOf(ask({ site: `${state.layer}.self` }));
  find("flow-of").textContent = flow.values
    ? `row looks at column, ${stepText(state.source, flow.steps)}`
    : (flow.absent ?? "");
  regionTable(find("flow"), sources[state.source].cells, flow.values, percent, (value) => Math.min(0.55, 0.7 * value));
}

/** Fills a table of named cells or regions by themselves; empty without values. text, shade: of a value. */
function regionTable(table, names, values, text, shade) {
  table.replaceChildren();
  if (!values) return;
  const head = element("tr");
  head.append(element("th", ""), ...names.map((name) => element("th", name, { scope: "col" })));
  table.append(head);
  const { rows, cells } = sources[state.source];
  const pointed = cellOf(tokenAt([128, 128], ask().x, ask().y), [128, 128], rows);
  const here = [cells[pointed], REGIONS[regionOf(pointed, rows)]];
  names.forEach((name, i) => {
    const line = element("tr", undefined, { className: here.includes(name) ? "here" : "" });
    line.append(element("th", name, { scope: "row" }));
    for (let j = 0; j < names.length; j++) {
      const value = values[names.length * i + j];
      const cell = element("td", text(value));
      cell.style.background = `rgba(var(--flow), ${shade(value)})`;
      line.append(cell);
    }
    table.append(line);
  });
}

/** The words, with how much the pixel pointed at attends to each. */
function drawWords() {
  const site = `${state.layer}.cross`;
  const words = wordsOf(ask({ kind: "cross", site }));
  const box = find("words");
  if (words.missing) return;
  box.replaceChildren();
  if (words.absent) {
    find("words-of").textContent = words.absent;
    return;
  }
  const silent = words.values.every((value) => value === 0);
  find("words-of").textContent = silent
    ? "none: CAM masks the text in this cell"
    : `this pixel, ${stepText(state.source, words.steps)}`;
  const top = Math.max(...words.values) || 1;
  words.group.columns.forEach((name, i) => {
    const special = i === 0 || ["end", "padding"].includes(name);
    const chosen = state.kind === "cross" && state.word === i;
    const button = element("button", name, { type: "button", title: `${name}: ${percent(words.values[i])}` });
    button.className = special ? "special" : "";
    button.dataset.word = i;
    button.setAttribute("role", "option");
    button.setAttribute("aria-selected", chosen);
    const bar = element("i");
    bar.style.width = `${(100 * words.values[i]) / top}%`;
    button.append(element("small", percent(words.values[i])), bar);
    box.append(button);
  });
}
