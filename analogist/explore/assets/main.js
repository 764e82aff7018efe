// Starts the page and draws it again when the view changes; link, PNG, and the numbers for whoever asks in the console.
let measured = 0; // when the pointer moved
let speaking = 0;
const latency = []; // ms from a pointer's move to the picture, the last 200
let first = null; // ms from the start of loading to the first picture

function draw() {
  asked = 0;
  showTheme();
  drawControls();
  const needed = drawPanels();
  if (needed.length) {
    unpack(needed);
    return;
  }
  const said = drawPointer();
  drawFlow();
  drawWritten();
  drawWords();
  const later = drawStrip();
  if (measured) {
    latency.push(performance.now() - measured);
    if (latency.length > 200) latency.shift();
    measured = 0;
  }
  first ??= performance.now();
  clearTimeout(speaking);
  speaking = setTimeout(() => (find("live").textContent = said), 400);
  const rest = [...missingBeside(), ...later];
  if (rest.length) unpack(rest.slice(0, 1));
}

/** Chunks of the numbers beside the pictures, which the pictures themselves did not need. */
function missingBeside() {
  const wanted = [
    mapOf(ask({ kind: "self", site: `${state.layer}.self`, view: "probs" })),
    wordsOf(ask({ kind: "cross", site: `${state.layer}.cross` })),
  ];
  return wanted.flatMap((one) => one.missing ?? []);
}

function unpack(ids) {
  Promise.all(ids.map(loadChunk)).then(schedule, fail);
}

/** Both pictures with captions and scales in one PNG. */
function drawExport() {
  const shown = panels.filter((panel) => !panel.figure.hidden);
  const gap = 16;
  const widths = shown.map((panel) => panel.canvas.width);
  const height = Math.max(...shown.map((panel) => panel.canvas.height));
  const canvas = document.createElement("canvas");
  canvas.width = widths.reduce((a, b) => a + b, 0) + gap * (shown.length + 1);
  canvas.height = height + 92;
  const style = getComputedStyle(document.documentElement);
  const context = canvas.getContext("2d");
  context.fillStyle = style.getPropertyValue("--page");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = style.getPropertyValue("--ink");
  context.font = '13px system-ui, "Liberation Sans", "DejaVu Sans", sans-serif';
  const line = (text, x, y, width) => context.fillText(text, x, y, width);
  const head = find("head-text").textContent;
  const said = [
    `layer ${find("site-text").textContent}`,
    `step ${find("step-text").textContent}`,
    `head: ${head}`,
    `pixel ${state.x}, ${state.y}`,
  ];
  line(`${said.join(", ")}; ${find("run").textContent}`, gap, 20, canvas.width - 2 * gap);
  let x = gap;
  for (const panel of shown) {
    line(panel.title.textContent, x, 42, panel.canvas.width);
    context.drawImage(panel.canvas, x, 50);
    if (panel.map) {
      context.drawImage(panel.bar, x + 60, height + 62, 160, 10);
      line(panel.low.textContent, x, height + 71, 56);
      line(`${panel.high.textContent} ${panel.unit.textContent}`, x + 228, height + 71, panel.canvas.width - 228);
    }
    x += panel.canvas.width + gap;
  }
  return canvas;
}

function savePng() {
  drawExport().toBlob((blob) => {
    const link = element("a", undefined, {
      download: `attention_${siteName()}_step${state.step}_${state.x}_${state.y}.png`,
      href: URL.createObjectURL(blob),
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 5000);
  });
}

function writeTexts() {
  const source = sources[0];
  const runs = sources.length > 1 ? `${sources.length} runs` : source.label;
  const bold = element("b", source.prompt ? `“${source.prompt}”` : "no prompt");
  const trained = source.trained ? "" : ", not trained: what it paints means nothing";
  find("run").replaceChildren(
    bold,
    ` ${runs}, ${source.size[1]} × ${source.size[0]} px, ${source.times.length} steps, guidance ${source.guidance}, `,
    source.checkpoint + trained,
  );
  writeNotes([
    ["holds", "What it holds"],
    ["left_out", "Left out"],
    ["exact", "How exact it is"],
  ]);
  const pictures = [...new Set(sources.map((one) => one.picture_done))].join("; ");
  find("notes-text").append(
    element(
      "p",
      `Pictures: ${pictures}. The padding after the prompt is one column: the sum over its tokens. ` +
        `Made by Analogist ${manifest.analogist}; of at most ${(manifest.max_bytes / 1e6).toFixed(1)} MB.`,
    ),
  );
  writeKeys(KEYS);
}

/** What is shown, in numbers: for each picture its view and its values, row-major over hw. */
function shown() {
  return panels
    .filter((panel) => !panel.figure.hidden && panel.map)
    .map(({ view, map, range }) => ({
      site: view.site,
      kind: view.kind,
      view: view.view,
      direction: view.direction,
      branch: view.branch,
      source: view.source,
      word: view.word,
      steps: [...map.steps],
      heads: map.group.heads === null ? null : map.heads.map((place) => map.group.heads[place]),
      token: map.token,
      at: [...map.at],
      hw: [...map.hw],
      range: [range.low, range.high],
      values: [...map.values],
    }));
}

window.explorer = {
  state: () => ({ ...state }),
  go,
  shown,
  latency,
  first: () => first,
  png: () => drawExport().toDataURL("image/png"),
  flow: () => [...(flowOf(ask({ site: `${state.layer}.self` })).values ?? [])],
  written: () => [...(writtenOf(ask({ site: `${state.layer}.self` })).values ?? [])],
  matches: () => (matchesOf(ask(), state.lines) ?? []).map((match) => ({ ...match })),
  busy: () => asked > 0 || waiting.size > 0,
};

loadPictures()
  .then(() => {
    const [height, width] = sources[0].size;
    if (sources.length > 1) state.beside = "run1";
    Object.assign(state, { step: "", x: Math.floor(width * 0.75), y: Math.floor(height * (1 - 0.5 / sources[0].rows)) });
    const all = sitesOf(0, "self").length ? "self" : "cross";
    state.kind = all;
    readAddress();
    settleStep();
    settle();
    writeTexts();
    connect();
    draw();
  })
  .catch(fail);

/** At first the middle of the steps that are here. */
function settleStep() {
  if (state.step !== "") return;
  const group = manifest.groups.find((one) => one.source === 0 && one.view === "probs");
  state.step = group ? group.steps[Math.floor(group.steps.length / 2)] : 0;
}
