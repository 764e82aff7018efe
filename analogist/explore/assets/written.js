// What heads write into a cell from another, where the page holds it, beside the share of attention.

/** The table of contributions between regions, that of the queries first; or absent: why there is nothing. */
function writtenOf(ask) {
  const held = sources[ask.source].written;
  const site = held?.sites[ask.site];
  const all = site?.[ask.branch] ?? site?.text ?? site?.negative;
  if (all === undefined) return { absent: "not measured here" };
  const steps = ask.step === "mean" ? held.steps : held.steps.filter((step) => step === ask.step);
  if (!steps.length) return { absent: `not measured in step ${ask.step}` };
  const chosen = site.heads.includes(ask.head) ? [ask.head] : site.heads;
  const count = held.regions.length ** 2;
  const out = new Float64Array(count);
  for (const step of steps)
    for (const head of chosen) {
      const from = count * (held.steps.indexOf(step) * site.heads.length + site.heads.indexOf(head));
      for (let i = 0; i < count; i++) out[i] += all[from + i] / (steps.length * chosen.length);
    }
  return { values: out, steps, heads: chosen };
}

/** The table of contributions under that of the flow. */
function drawWritten() {
  const section = find("written-section");
  const held = sources[state.source].written;
  section.hidden = !held;
  if (section.hidden) return;
  const written = writtenOf(ask({ site: `${state.layer}.self` }));
  const several = written.heads?.length > 1 ? `, mean of ${written.heads.length} heads` : "";
  find("written-of").textContent = written.absent ?? `into row from column, ${stepText(state.source, written.steps)}${several}`;
  const top = written.values ? Math.max(...written.values) : 1;
  regionTable(find("written"), held.regions, written.values, figureOf, (value) => (top > 0 ? (0.55 * value) / top : 0));
}
