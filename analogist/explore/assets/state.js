// The view: what is chosen, kept in the address so that it can be sent, and always something that the page holds.
const state = {
  kind: "self",
  view: "probs",
  direction: "from",
  layer: "",
  step: 0,
  head: -1,
  branch: "text",
  source: 0,
  beside: "reverse",
  lines: "off",
  scale: "sqrt",
  word: 1,
  x: 0,
  y: 0,
  held: false,
  theme: "auto",
  overlay: true,
};
const VIEWS = {
  self: {
    probs: "probabilities",
    logits: "logits, after SAC",
    scores: "logits, before SAC",
    change: "change of logits by SAC",
  },
  cross: { probs: "probabilities, after CAM", before: "probabilities, before CAM", change: "change by CAM" },
};
const BESIDE = { none: "nothing", reverse: "the other direction of attention", before: "before SAC or CAM", change: "change by SAC or CAM" };
const NAMES = Object.keys(state);

/** The sites of a source for a kind, by layer. A site's name without its kind is the state's `layer`. */
function sitesOf(source, kind) {
  return sources[source].sites
    .filter((site) => site.kind === kind && groupOf(source, site.name, "probs", "text") !== undefined)
    .sort((a, b) => a.layer - b.layer);
}
const short = (site) => site.name.slice(0, site.name.lastIndexOf("."));
const currentSite = () => sitesOf(state.source, state.kind).find((site) => short(site) === state.layer);
const siteName = () => `${state.layer}.${state.kind}`;

/** Steps for which the current site's probabilities are here. */
const stepsHere = () => groupOf(state.source, siteName(), "probs", state.branch)?.steps ?? [];
/** Heads kept apart at the current site; none where only the mean is here. */
const headsHere = () => groupOf(state.source, siteName(), "probs", state.branch)?.heads ?? [];
const branchesHere = () =>
  ["text", "negative"].filter((branch) => groups.has([state.source, siteName(), "probs", branch].join("|")));
const viewsHere = () => {
  const has = (view) => groupOf(state.source, siteName(), view, state.branch) !== undefined;
  const parts = PARTS[state.kind].change;
  return Object.keys(VIEWS[state.kind]).filter((view) => (view === "change" ? parts.every(has) : has(view)));
};
const besideHere = () => {
  const names = state.kind === "self" ? ["none", "reverse"] : ["none"];
  if (viewsHere().includes("change")) names.push("before", "change");
  return [...names, ...sources.map((_, i) => `run${i}`).filter((name) => name !== `run${state.source}`)];
};

/** Brings every choice to something that is here. */
function settle() {
  const number = (value, low, high, otherwise) =>
    Number.isFinite(+value) ? Math.min(high, Math.max(low, Math.round(+value))) : otherwise;
  state.source = number(state.source, 0, sources.length - 1, 0);
  if (!["self", "cross"].includes(state.kind)) state.kind = "self";
  if (!sitesOf(state.source, state.kind).length) state.kind = state.kind === "self" ? "cross" : "self";
  const sites = sitesOf(state.source, state.kind);
  if (!sites.some((site) => short(site) === state.layer)) {
    const acting = sites.filter((site) => site.acts);
    const finest = (acting.length ? acting : sites).reduce((best, site) => (site.hw[0] >= best.hw[0] ? site : best));
    state.layer = short(finest);
  }
  if (!branchesHere().includes(state.branch)) state.branch = branchesHere()[0];
  const steps = stepsHere();
  if (state.step !== "mean") state.step = stepsOf({ steps }, number(state.step, -1, 1e6, steps[0]))[0];
  if (state.step === "mean" && steps.length === 1) state.step = steps[0];
  state.head = headsHere().includes(+state.head) ? +state.head : -1;
  if (!viewsHere().includes(state.view)) state.view = "probs";
  if (!["from", "to"].includes(state.direction)) state.direction = "from";
  if (!besideHere().includes(state.beside))
    state.beside = state.kind === "self" ? "reverse" : viewsHere().includes("change") ? "before" : "none";
  const words = wordGroup()?.columns ?? [];
  state.word = number(state.word, 0, Math.max(0, words.length - 1), 0);
  const [height, width] = sources[state.source].size;
  state.x = number(state.x, 0, width - 1, 0);
  state.y = number(state.y, 0, height - 1, 0);
  if (!LINES.includes(state.lines)) state.lines = "off";
  if (!["sqrt", "linear"].includes(state.scale)) state.scale = "sqrt";
  if (!THEMES.includes(state.theme)) state.theme = "auto";
  state.held = state.held === true || state.held === "true";
  state.overlay = state.overlay === true || state.overlay === "true";
}

const wordGroup = () => groupOf(state.source, `${state.layer}.cross`, "probs", state.branch);
