// The chosen run: its grid, the pictures beside it, its numbers, the command that repeats it, and its record.

/** The levels of a run that differ from the reference's, in words. */
function runText(run) {
  const changed = factors.map(({ name, reference }, i) => (levelsOf(run)[i] === reference ? "" : `${name} ${levelsOf(run)[i]}`));
  return changed.filter(Boolean).join(", ") || "the reference";
}

/** A picture of the page; lazily decoded, with its caption as text for those who do not see it. */
function pictureOf(number, text) {
  const image = element("img", undefined, { alt: text, loading: "lazy", decoding: "async" });
  if (number !== null && number !== undefined) image.src = manifest.pictures[number];
  return image;
}

function figure(caption, content) {
  const made = element("figure");
  made.append(content, element("figcaption", caption));
  return made;
}

/** The composed grid with the painted B' in its cell. */
function gridOf(run) {
  const input = inputs[runs.input[run]];
  const box = element("div", undefined, { className: "grid-picture" });
  box.style.aspectRatio = `${input.size[0]} / ${input.size[1]}`;
  box.append(pictureOf(input.grid, "the grid of A, A' and B"));
  if (runs.picture[run] !== null) {
    const over = pictureOf(runs.picture[run], "the painted B'");
    over.className = "over";
    ["left", "top", "width", "height"].forEach((side, i) => (over.style[side] = `${100 * input.cell[i]}%`));
    box.append(over);
  }
  return box;
}

/** The run that the chosen one is compared with: the pair's, else the reference of its input and seed; undefined for none. */
function partnerOf(run) {
  const chosen = numberOf.get(state.against);
  const partner = chosen ?? referenceOf.get(`${runs.input[run]}|${runs.seed[run]}`);
  return partner === run ? undefined : partner;
}

function drawRun() {
  const run = numberOf.get(state.run);
  for (const id of ["pictures", "numbers", "again", "record"]) find(id).hidden = run === undefined;
  if (run === undefined) {
    find("chosen-title").textContent = "No run chosen";
    find("chosen-text").textContent = "Choose a row or a point to see its pictures, its record and the command that repeats it.";
    return;
  }
  const input = inputs[runs.input[run]];
  const partner = partnerOf(run);
  find("chosen-title").textContent = runText(run);
  find("chosen-text").replaceChildren(element("b", input.name), `, seed ${runs.seed[run]}`, partner === undefined ? "" : `, against ${runText(partner)}`);
  const prompt = recordOf(run).prompt;
  find("chosen-text").append(element("br"), prompt ? `prompt: ${prompt}` : "no prompt");
  if (runs.failed[run]) find("chosen-text").append(element("br"), runs.failed[run]);
  drawPictures(run, partner, input);
  drawNumbers(run, partner);
  drawCommand(run);
  if (find("record").open) find("record-text").textContent = JSON.stringify(recordOf(run), null, 1);
}

function drawPictures(run, partner, input) {
  const small = [];
  const shown = (number, text) => (number === null ? element("p", "no picture", { className: "none" }) : pictureOf(number, text));
  small.push(figure("B' of this run", shown(runs.picture[run], "B' of this run")));
  if (partner !== undefined) small.push(figure("B' it is compared with", shown(runs.picture[partner], "B' of the run compared with")));
  if (input.truth !== null) small.push(figure("true B'", pictureOf(input.truth, "the true B'")));
  find("pictures").replaceChildren(figure("the grid with B' as painted", gridOf(run)), ...small);
}

function drawNumbers(run, partner) {
  const head = element("tr");
  const differences = partner === undefined ? undefined : differencesOf(run, partner);
  const heads = ["", "this run", ...(partner === undefined ? [] : ["compared with"]), ...(differences ? ["difference"] : [])];
  head.append(...heads.map((text) => element("th", text, { scope: "col" })));
  const lines = metrics.map(({ name, better, text }) => {
    const line = element("tr", undefined, { className: name === state.metric ? "here" : "", title: text });
    const cells = [`${name}${better === "lower" ? " ↓" : better === "higher" ? " ↑" : ""}`, figureOf(values[name][run])];
    if (partner !== undefined) cells.push(figureOf(values[name][partner]));
    if (differences) cells.push(figureOf(differences[name], true));
    line.append(...cells.map((cell) => element("td", cell)));
    return line;
  });
  find("numbers").replaceChildren(head, ...lines);
}

function drawCommand(run) {
  const command = runs.command[run];
  find("again-line").hidden = !command;
  find("command").value = command;
  find("again-text").textContent = command
    ? "In the folder of this page. Add what the study was started with, such as the path of its checkpoint or --device. The picture is the " +
      "same up to rounding, since a study paints several runs at once."
    : runs.failed[run]
      ? "This run failed and has no picture."
      : "No command can repeat this run: it edits attention with a Python function. Run the study again into another folder instead.";
}

/** The record of a run, put together from the values that runs share. */
function recordOf(run) {
  return Object.fromEntries(Object.entries(runs.record[run]).map(([name, place]) => [name, manifest.pool[place]]));
}

function copyCommand() {
  const text = find("command").value;
  if (!text) return;
  find("command").select();
  const said = (what) => (find("live").textContent = what);
  (navigator.clipboard?.writeText(text) ?? Promise.reject()).then(
    () => {
      find("copy").textContent = "Copied";
      setTimeout(() => (find("copy").textContent = "Copy"), 1500);
      said("Command copied");
    },
    () => said("The command is selected; copy it with the keys of your system"),
  );
}
