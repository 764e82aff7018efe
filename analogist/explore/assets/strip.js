// The strip: what the pointed pixel does at every site, small, in order of execution.
let thumbs = [];
let thumbsOf = "";

function makeStrip() {
  const key = `${state.source}|${state.kind}`;
  if (thumbsOf === key) return;
  thumbsOf = key;
  const sites = sitesOf(state.source, state.kind);
  thumbs = sites.map((site) => {
    const button = element("button", undefined, { type: "button" });
    const canvas = element("canvas");
    const [height, width] = sources[state.source].size;
    canvas.width = 64;
    canvas.height = Math.round((64 * height) / width);
    const bar = element("span", undefined, { className: "bar" });
    const label = element("span", undefined, { className: "label" });
    label.append(
      element("b", `${site.layer}`),
      ` ${short(site).replace(".attn", "")}${site.acts ? ` ${site.kind === "self" ? "SAC" : "CAM"}` : ""}`,
    );
    button.append(canvas, bar, label);
    button.dataset.site = short(site);
    button.setAttribute(
      "aria-label",
      `Layer ${site.layer}, ${short(site)}${site.acts ? `, ${site.kind === "self" ? "SAC" : "CAM"} acts here` : ""}`,
    );
    button.title = `${site.name}, ${site.hw[0]} × ${site.hw[1]} tokens`;
    return { site, button, canvas, bar };
  });
  find("strip").replaceChildren(...thumbs.map((thumb) => thumb.button));
}

/** Draws what is unpacked; gives the chunks that are missing, nearest site first. */
function drawStrip() {
  makeStrip();
  const missing = [];
  const chosen = thumbs.findIndex((thumb) => short(thumb.site) === state.layer);
  thumbs.forEach((thumb, i) => {
    thumb.button.setAttribute("aria-current", i === chosen);
    const map = mapOf(ask({ site: thumb.site.name, view: "probs" }));
    if (map.missing) {
      missing.push([Math.abs(i - chosen), map.missing]);
      return;
    }
    if (!map.values) return;
    const context = thumb.canvas.getContext("2d");
    const { width, height } = thumb.canvas;
    context.fillStyle = "#6a6a6a";
    context.fillRect(0, 0, width, height);
    small.width = map.hw[1];
    small.height = map.hw[0];
    small.getContext("2d").putImageData(imageOf(map, rangeOf([map], "probs"), state.scale), 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, width, height);
    if (state.kind === "self") {
      const { rows } = sources[state.source];
      const shares = sharesOf(map, rows);
      const total = shares.reduce((a, b) => a + b, 0) || 1;
      while (thumb.bar.children.length < shares.length)
        thumb.bar.append(element("span", undefined, { className: STYLES[regionOf(thumb.bar.children.length, rows)] }));
      shares.forEach((share, k) => (thumb.bar.children[k].style.width = `${(100 * share) / total}%`));
    }
  });
  return missing.sort((a, b) => a[0] - b[0]).flatMap(([, ids]) => ids);
}
