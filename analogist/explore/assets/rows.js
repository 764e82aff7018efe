// Numbers out of blocks: a row (where a pixel looks), a column (which pixels look at it), a word's heat map, the flow table.
const REGIONS = ["A", "A'", "B", "B'"];

/** The token of a map of h x w under a point, x and y as shares of the picture's width and height. */
function tokenAt([h, w], x, y) {
  const row = Math.min(h - 1, Math.max(0, Math.floor(y * h)));
  const column = Math.min(w - 1, Math.max(0, Math.floor(x * w)));
  return row * w + column;
}

/** The cell, numbered row by row, of a token of a map of h x w in a grid of `rows` rows of cells. */
function cellOf(token, [h, w], rows) {
  return 2 * Math.floor(Math.floor(token / w) / (h / rows)) + (token % w >= w / 2 ? 1 : 0);
}

/** The region, by number, of a cell: A and A' are the cells of all example pairs. */
function regionOf(cell, rows) {
  return (cell >= 2 * (rows - 1) ? 2 : 0) + (cell % 2);
}

/** The steps of a group nearest to those asked for; "mean" is all of them. */
function stepsOf(group, step) {
  if (step === "mean") return group.steps;
  return [group.steps.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best))];
}

/** Places of the heads in a group's blocks: all for the mean, or where single heads were not kept. */
function headsOf(group, head) {
  const place = head >= 0 && group.heads !== null ? group.heads.indexOf(head) : -1;
  return place < 0 ? [...Array(group.count).keys()] : [place];
}

/** Mean over steps and heads of one row, or of one column, of a group. Null where a chunk is not unpacked. */
function valuesOf(group, steps, heads, index, direction) {
  const column = direction === "to";
  const out = new Float64Array(column ? group.rows : group.width);
  const weight = 1 / (steps.length * heads.length);
  for (const step of steps) {
    const block = blockOf(group, step);
    if (block === null) return null;
    const { scales, codes, encoding } = block;
    const all = group.count * group.rows;
    for (const head of heads) {
      if (column) {
        for (let row = 0; row < group.rows; row++) {
          const at = head * group.rows + row;
          const code = codes[at * group.width + index];
          out[row] += weight * (encoding === 1 ? scales[at] * SQUARES[code] : scales[at] + scales[all + at] * code);
        }
      } else {
        const at = head * group.rows + index;
        const start = at * group.width;
        if (encoding === 1) {
          const top = weight * scales[at];
          for (let i = 0; i < group.width; i++) out[i] += top * SQUARES[codes[start + i]];
        } else {
          const low = scales[at];
          const level = scales[all + at];
          for (let i = 0; i < group.width; i++) out[i] += weight * (low + level * codes[start + i]);
        }
      }
    }
  }
  return out;
}

const PARTS = { self: { change: ["logits", "scores"] }, cross: { change: ["probs", "before"] } };

/**
 * A map over the picture. ask: source, site (with kind), kind, view, branch, step, head, x, y, direction, word.
 * Gives values, hw, token (the pointed one, -1 for words), at [h, w] of it, steps, heads, mean; or missing: chunks to unpack;
 * or absent: why there is nothing.
 */
function mapOf(ask) {
  const both = PARTS[ask.kind][ask.view];
  if (both !== undefined) {
    const after = mapOf({ ...ask, view: both[0] });
    if (after.values === undefined) return after;
    const before = mapOf({ ...ask, view: both[1], step: ask.step === "mean" ? "mean" : after.steps[0] });
    if (before.values === undefined) return before;
    return { ...after, values: after.values.map((value, i) => value - before.values[i]), change: true };
  }
  const group = groupOf(ask.source, ask.site, ask.view, ask.branch);
  if (group === undefined) return { absent: "not on this page" };
  const steps = stepsOf(group, ask.step);
  const missing = missingChunks(group, steps);
  if (missing.length) return { missing };
  const heads = headsOf(group, ask.head);
  const facts = { group, steps, heads, mean: heads.length > 1 || group.heads === null };
  if (!group.self) {
    if (ask.word >= group.columns.length) return { absent: "no such word in this prompt" };
    return { ...facts, values: valuesOf(group, steps, heads, ask.word, "from"), hw: group.query, token: -1, at: group.query };
  }
  const at = ask.direction === "to" ? group.key : group.query;
  const token = tokenAt(at, ask.x, ask.y);
  const hw = ask.direction === "to" ? group.query : group.key;
  return { ...facts, values: valuesOf(group, steps, heads, token, ask.direction), hw, token, at };
}

/** The words a pixel attends to: values by column; or missing, or absent, as mapOf. */
function wordsOf(ask) {
  const group = groupOf(ask.source, ask.site, "probs", ask.branch);
  if (group === undefined) return { absent: "not on this page" };
  const steps = stepsOf(group, ask.step);
  const missing = missingChunks(group, steps);
  if (missing.length) return { missing };
  const token = tokenAt(group.query, ask.x, ask.y);
  return { group, steps, values: valuesOf(group, steps, headsOf(group, ask.head), token, "to") };
}

/** The flow between cells, row by row, the cell of the queries first; or missing, or absent, as mapOf. */
function flowOf(ask) {
  const group = groupOf(ask.source, ask.site, "probs", ask.branch);
  if (group === undefined) return { absent: "not on this page" };
  const steps = stepsOf(group, ask.step);
  const missing = missingChunks(group, steps);
  if (missing.length) return { missing };
  const heads = headsOf(group, ask.head);
  const count = sources[ask.source].cells.length ** 2;
  const out = new Float64Array(count);
  for (const step of steps) {
    const { flow } = blockOf(group, step);
    for (const head of heads) for (let i = 0; i < count; i++) out[i] += flow[head * count + i] / (steps.length * heads.length);
  }
  return { values: out, steps };
}

/** Shares of the cells in a map of probabilities over keys. */
function sharesOf(map, rows) {
  const out = Array(2 * rows).fill(0);
  map.values.forEach((value, token) => (out[cellOf(token, map.hw, rows)] += value));
  return out;
}
