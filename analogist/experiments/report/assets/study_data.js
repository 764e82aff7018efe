// What the page holds, and the view: what is chosen, kept in the address so that it can be sent, and always something that is here.
const { factors, metrics, inputs, variants, runs, values, comparisons, claims, effects, interactions } = manifest;
const COUNT = runs.id.length;
const VIEWS = { claims: "claims", effects: "effects", interactions: "interactions", runs: "runs" };
const ALL = "";

const state = { view: "", metric: "", row: "0", sort: "", pairsort: "difference -1", run: "", against: "", input: ALL, group: ALL, seed: ALL };
for (const factor of factors) state[`factor ${factor.name}`] = ALL;
state.theme = "auto";
const NAMES = Object.keys(state);

/** The filters with their choices: one per factor with several levels, then inputs, groups and seeds where there are several. */
const FILTERS = [
  ...factors.map(({ name, levels }) => ({ name: `factor ${name}`, label: name, choices: levels })),
  { name: "input", label: "input", choices: inputs.map((input) => input.name) },
  { name: "group", label: "group", choices: [...new Set(inputs.map((input) => input.group))] },
  { name: "seed", label: "seed", choices: [...new Set(runs.seed)] },
]
  .map((filter) => ({ ...filter, choices: [ALL, ...filter.choices] }))
  .filter(({ choices }) => choices.length > 2);

const numberOf = new Map(runs.id.map((id, number) => [id, number]));
const isReference = variants.map((levels) => levels.every((level, i) => level === factors[i].reference));
const referenceOf = new Map(); // "input|seed" -> the reference's run
for (let run = 0; run < COUNT; run++) {
  if (isReference[runs.variant[run]]) referenceOf.set(`${runs.input[run]}|${runs.seed[run]}`, run);
}
const levelsOf = (run) => variants[runs.variant[run]];
const viewsHere = () => Object.keys(VIEWS).filter((view) => view === "runs" || manifest[view].length);

/** Whether a run passes the filters. except: a factor whose filter does not count. */
function passes(run, except) {
  const input = inputs[runs.input[run]];
  if (state.input !== ALL && input.name !== state.input) return false;
  if (state.group !== ALL && input.group !== state.group) return false;
  if (state.seed !== ALL && runs.seed[run] !== state.seed) return false;
  const levels = levelsOf(run);
  return factors.every(({ name }, i) => {
    const wanted = state[`factor ${name}`];
    return wanted === ALL || name === except || levels[i] === wanted;
  });
}

/** The rows of the upper table in their own order: what is chosen of them, and in which runs, decides the lower one. */
function rowsHere() {
  if (state.view === "claims") return claims;
  const ofMetric = (row) => row.metric === state.metric;
  if (state.view === "interactions") return interactions.filter(ofMetric);
  return effects.filter((row) => ofMetric(row) && [ALL, row.level].includes(state[`factor ${row.factor}`]));
}

/** The pairs of runs behind a claim or an effect that pass the filters: run, its partner, the difference. */
function pairsOf(row) {
  const { pairs, differences } = comparisons[row.comparison];
  const found = differences[row.metric] ?? [];
  return pairs
    .map(([run, against], i) => ({ run, against, difference: found[i] ?? null }))
    .filter((pair) => pair.difference !== null && passes(pair.run, row.factor) && (row.factor === undefined || passes(pair.against, row.factor)));
}

/** The differences between two runs by metric, where the study compares them; else undefined. */
function differencesOf(run, against) {
  for (const { pairs, differences } of comparisons) {
    const at = pairs.findIndex((pair) => pair[0] === run && pair[1] === against);
    if (at >= 0) return Object.fromEntries(Object.entries(differences).map(([metric, found]) => [metric, found[at]]));
  }
  return undefined;
}

/** Brings every choice to something that is here. */
function settle() {
  if (!viewsHere().includes(state.view)) state.view = viewsHere()[0];
  if (!metrics.some((metric) => metric.name === state.metric)) state.metric = metrics[0]?.name ?? "";
  for (const { name, choices } of FILTERS) if (!choices.includes(state[name])) state[name] = ALL;
  if (state.view === "claims" || state.view === "effects") {
    const rows = rowsHere();
    if (!(Number.isInteger(+state.row) && rows[+state.row])) state.row = "0";
    state.row = String(+state.row);
    if (rows.length && state.view === "claims") state.metric = rows[+state.row].metric;
  }
  for (const name of ["run", "against"]) if (!numberOf.has(state[name])) state[name] = "";
  if (!state.run) state.against = "";
  if (!THEMES.includes(state.theme)) state.theme = "auto";
}
