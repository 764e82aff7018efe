// Tables that sort by any column and draw their rows as they come into view, and the drawings of intervals and points.
const CHUNK = 60; // rows drawn at once
const MOST_POINTS = 1500;
const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, change = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(change)) made.setAttribute(name, value);
  return made;
}

/** A number as text of four digits. */
function figureOf(value, sign = false) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  const text = size !== 0 && (size >= 1e5 || size < 1e-4) ? value.toExponential(2) : String(+value.toPrecision(4));
  return (sign && value > 0 ? "+" : "") + text;
}

/** Below or above by a column's values; empty ones last. */
function sorted(rows, column, direction) {
  const by = (a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === y) return 0;
    if (x === null || x === undefined || x === "") return 1;
    if (y === null || y === undefined || y === "") return -1;
    return direction * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
  };
  return [...rows].sort(by);
}

/**
 * A table in an element. columns: name, head, title, number, value(row) to sort by, cell(row) -> text or element.
 * sort: "column direction" or "" for the given order. chosen(row), choose(row), resort(sort): what a click does.
 */
class Table {
  constructor(id) {
    this.table = find(id);
    this.watcher = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.grow(), { rootMargin: "300px" });
  }

  draw(columns, rows, { sort, chosen, choose, resort }) {
    const [name, direction] = [sort.slice(0, sort.lastIndexOf(" ")), +sort.slice(sort.lastIndexOf(" ") + 1)];
    const column = columns.find((one) => one.name === name);
    const order = column ? sorted(rows, column, direction < 0 ? -1 : 1) : rows;
    Object.assign(this, { columns, order, chosen, choose });
    const head = element("tr");
    for (const one of columns) {
      const cell = element("th", undefined, { className: one.number ? "number" : "", scope: "col" });
      const button = element("button", one.head ?? one.name, { type: "button", title: one.title ?? "" });
      const down = column === one ? direction > 0 : one.number;
      button.addEventListener("click", () => resort(`${one.name} ${down ? -1 : 1}`));
      if (column === one) {
        cell.setAttribute("aria-sort", direction < 0 ? "descending" : "ascending");
        button.append(direction < 0 ? " ▾" : " ▴");
      }
      cell.append(button);
      head.append(cell);
    }
    this.body = element("tbody");
    const heads = element("thead");
    heads.append(head);
    const kept = this.count ?? 0; // as many rows as were drawn before, so that a choice does not shorten the table
    this.count = 0;
    this.table.replaceChildren(heads, this.body);
    this.grow(Math.max(CHUNK, this.key === sort ? kept : 0, this.placeOfChosen() + 10));
    this.key = sort;
    if (this.placeOfChosen() < 0 && this.order.length) this.body.firstChild.tabIndex = 0; // a way in for the tab key
  }

  placeOfChosen() {
    return this.order.findIndex((row) => this.chosen(row));
  }

  /** Draws more rows below. */
  grow(by = CHUNK) {
    this.more?.remove();
    this.watcher.disconnect();
    const until = Math.min(this.order.length, this.count + by);
    for (; this.count < until; this.count++) this.body.append(this.line(this.order[this.count]));
    if (this.count === this.order.length) return;
    this.more = element("tr", undefined, { className: "more" });
    const cell = element("td", undefined, { colSpan: this.columns.length });
    const button = element("button", `Show more (${this.order.length - this.count} left)`, { type: "button" });
    button.addEventListener("click", () => {
      const next = this.count;
      this.grow();
      this.body.children[next]?.focus();
    });
    cell.append(button);
    this.more.append(cell);
    this.body.append(this.more);
    this.watcher.observe(this.more);
  }

  line(row) {
    const line = element("tr", undefined, { tabIndex: -1 });
    const chosen = this.chosen(row);
    line.setAttribute("aria-selected", chosen);
    if (chosen) line.tabIndex = 0;
    for (const column of this.columns) {
      const cell = element("td", undefined, { className: column.number ? "number" : (column.kind ?? "") });
      cell.append(column.cell(row) ?? "");
      line.append(cell);
    }
    line.addEventListener("click", () => this.choose(row));
    return line;
  }

  /** Chooses the row `by` further in the order that is shown. */
  step(by) {
    if (!this.order.length) return;
    const at = this.placeOfChosen();
    this.choose(this.order[at < 0 ? 0 : Math.min(this.order.length - 1, Math.max(0, at + by))]);
  }

  /** Brings the chosen row into view. */
  reveal() {
    const row = this.body?.querySelector('[aria-selected="true"]');
    row?.scrollIntoView({ block: "nearest" });
  }
}

/** The range of numbers that intervals of one metric are drawn over, 0 in it. */
function scaleOf(rows) {
  const ends = rows.flatMap((row) => [row.low, row.high, row.mean, 0]).filter((value) => value !== null);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const room = 0.04 * (high - low || 1);
  return (value, width) => (width * (value - low + room)) / (high - low + 2 * room);
}

/** An interval as a line with its mean, zero, and what is too small to matter shaded. */
function intervalOf(row, scale) {
  const svg = drawn("svg", { class: "interval", viewBox: "0 0 150 16", "aria-hidden": "true" });
  if (row.mean === null) return svg;
  const x = (value) => Math.min(150, Math.max(0, scale(value, 150)));
  if (row.margin) svg.append(drawn("rect", { class: "margin", x: x(-row.margin), y: 1, width: x(row.margin) - x(-row.margin), height: 14 }));
  svg.append(drawn("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 16 }));
  if (row.low !== null) svg.append(drawn("line", { class: "span", x1: x(row.low), x2: x(row.high), y1: 8, y2: 8 }));
  svg.append(drawn("circle", { class: "mean", cx: x(row.mean), cy: 8, r: 3.2 }));
  return svg;
}

/** Every pair as a point over its difference, stacked where they meet, above the mean with its interval. Gives what is not drawn. */
function drawPoints(row, pairs, choose) {
  const svg = find("points");
  const width = Math.max(200, svg.clientWidth || 600);
  svg.setAttribute("viewBox", `0 0 ${width} 92`);
  svg.replaceChildren();
  svg.setAttribute("aria-label", `Differences of ${pairs.length} pairs; the table below holds the same pairs`);
  if (!pairs.length) return 0;
  const every = Math.ceil(pairs.length / MOST_POINTS);
  const shown = pairs.filter((pair, i) => i % every === 0 || pair.run === numberOf.get(state.run));
  const scale = scaleOf([row, ...shown.map(({ difference }) => ({ low: difference, high: difference, mean: null }))]);
  const x = (value) => 10 + scale(value, width - 20);
  if (row.margin) {
    const inside = (value) => Math.min(width, Math.max(0, x(value)));
    const [low, high] = [inside(-row.margin), inside(row.margin)];
    svg.append(drawn("rect", { class: "margin", x: low, y: 0, width: high - low, height: 76 }));
  }
  svg.append(drawn("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 78 }));
  const stacks = new Map();
  for (const pair of shown) {
    const place = Math.round(x(pair.difference) / 6);
    const height = stacks.get(place) ?? 0;
    stacks.set(place, height + 1);
    pair.height = height;
  }
  const gap = Math.min(6, 50 / Math.max(...stacks.values()));
  for (const pair of shown) {
    const chosen = pair.run === numberOf.get(state.run) && pair.against === numberOf.get(state.against);
    const point = drawn("circle", { class: chosen ? "point chosen" : "point", cx: x(pair.difference), cy: 58 - gap * pair.height, r: chosen ? 5 : 3.5 });
    const title = drawn("title");
    title.textContent = `${inputs[runs.input[pair.run]].name}, seed ${runs.seed[pair.run]}: ${figureOf(pair.difference, true)}`;
    point.append(title);
    point.addEventListener("click", () => choose(pair));
    svg.append(point);
  }
  if (row.mean !== null) {
    if (row.low !== null) svg.append(drawn("line", { class: "span", x1: x(row.low), x2: x(row.high), y1: 71, y2: 71 }));
    svg.append(drawn("circle", { class: "mean", cx: x(row.mean), cy: 71, r: 4 }));
  }
  const label = (value, anchor) => {
    const text = drawn("text", { x: x(value), y: 89, "text-anchor": anchor });
    text.textContent = figureOf(value, true);
    svg.append(text);
  };
  const ends = shown.map((pair) => pair.difference);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  label(0, "middle");
  if (x(0) - x(low) > 60) label(low, "start");
  if (x(high) - x(0) > 60) label(high, "end");
  return pairs.length - shown.length;
}
