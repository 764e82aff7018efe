// Best correspondences between two cells: each token's strongest key in the other cell, the clearest of them as lines.
const LINES = ["off", "B'>A'", "B'>B", "B'>A", "A'>B'", "A'>A", "B>A", "A>B"];
const COUNT = 24;
let kept = { key: "", matches: null };

/**
 * The clearest matches from a region's queries to another region's keys, of the state's site, step, branch and head.
 * Only mutual ones (the key's own strongest query, within a token, is where it began) if there are enough of them.
 * Null while chunks are missing.
 */
function matchesOf(ask, spec) {
  const group = groupOf(ask.source, ask.site, "probs", ask.branch);
  if (spec === "off" || group === undefined || !group.self) return [];
  const steps = stepsOf(group, ask.step);
  const heads = headsOf(group, ask.head);
  const key = [ask.source, ask.site, ask.branch, steps, heads, spec].join("|");
  if (kept.key === key) return kept.matches;
  if (missingChunks(group, steps).length) return null;
  const [from, to] = spec.split(">").map((name) => REGIONS.indexOf(name));
  const rows = sources[ask.source].rows;
  const inside = (hw, region) => [...Array(hw[0] * hw[1]).keys()].filter((token) => regionOf(cellOf(token, hw, rows), rows) === region);
  const queries = inside(group.query, from);
  const keys = inside(group.key, to);
  const best = new Map(); // key -> its strongest query
  const found = [];
  for (const query of queries) {
    const row = valuesOf(group, steps, heads, query, "from");
    let top = keys[0];
    let total = 0;
    for (const token of keys) {
      total += row[token];
      if (row[token] > row[top]) top = token;
      if (!(best.get(token)?.value >= row[token])) best.set(token, { query, value: row[token] });
    }
    found.push({
      from: query,
      to: top,
      fromHw: group.query,
      toHw: group.key,
      value: row[top],
      share: total > 0 ? row[top] / total : 0,
    });
  }
  const w = group.query[1];
  const near = (a, b) => Math.max(Math.abs((a % w) - (b % w)), Math.abs(Math.floor(a / w) - Math.floor(b / w))) <= 1;
  found.sort((a, b) => b.share - a.share);
  const mutual = found.filter((match) => near(best.get(match.to).query, match.from));
  const chosen = (mutual.length >= COUNT / 2 ? mutual : found).slice(0, COUNT);
  kept = { key, matches: chosen };
  return chosen;
}
