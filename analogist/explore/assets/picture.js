// The grid picture with a map over it, grey and dim so that colour and light mean attention: cells framed, the pointed token
// marked, lines to best matches.
const FRAME = "rgba(255,255,255,0.85)";
const pictures = sources.map(() => null); // grey canvases, by source
const coloured = sources.map(() => null); // the pictures as they are

/** Loads the pictures and makes them grey. */
function loadPictures() {
  return Promise.all(
    sources.map(async (source, i) => {
      const image = new Image();
      image.src = source.picture;
      await image.decode();
      coloured[i] = image;
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
      const { data } = pixels;
      for (let k = 0; k < data.length; k += 4) {
        const grey = 0.2126 * data[k] + 0.7152 * data[k + 1] + 0.0722 * data[k + 2];
        data[k] = data[k + 1] = data[k + 2] = 34 + 0.6 * grey;
      }
      context.putImageData(pixels, 0, 0);
      pictures[i] = canvas;
    }),
  );
}

const small = document.createElement("canvas");

/** Draws a map (null: the picture alone) of a source into a context, w x h pixels. mark: token outlined, over a map of `at`. */
function drawPicture(context, w, h, source, map, range, mark) {
  context.imageSmoothingEnabled = true;
  context.drawImage(state.overlay ? pictures[source] : coloured[source], 0, 0, w, h);
  if (map !== null && state.overlay) {
    small.width = map.hw[1];
    small.height = map.hw[0];
    small.getContext("2d").putImageData(imageOf(map, range, state.scale), 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, w, h);
  }
  drawCells(context, w, h, sources[source].rows);
  if (mark) drawMark(context, w, h, mark);
}

/** Frames and names of the cells; k example pairs are A1, A1', ... */
function drawCells(context, w, h, rows) {
  const unit = Math.max(1, Math.round(w / 480));
  context.lineWidth = unit;
  context.strokeStyle = FRAME;
  context.beginPath();
  context.moveTo(w / 2, 0);
  context.lineTo(w / 2, h);
  for (let row = 1; row < rows; row++) {
    context.moveTo(0, (row * h) / rows);
    context.lineTo(w, (row * h) / rows);
  }
  context.stroke();
  context.font = `600 ${Math.round(11 * Math.max(1, w / 480))}px system-ui, "Liberation Sans", "DejaVu Sans", sans-serif`;
  context.textBaseline = "top";
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < 2; column++) {
      const name = (row === rows - 1 ? "B" : rows > 2 ? `A${row + 1}` : "A") + (column ? "'" : "");
      const x = (column * w) / 2 + 3 * unit;
      const y = (row * h) / rows + 3 * unit;
      context.fillStyle = "rgba(0,0,0,0.6)";
      context.fillRect(x, y, context.measureText(name).width + 6 * unit, 14 * Math.max(1, w / 480));
      context.fillStyle = "#fff";
      context.fillText(name, x + 3 * unit, y + 2 * unit);
    }
  }
}

/** Outlines a token: dark and light, so that it stands out on any ground. */
function drawMark(context, w, h, { token, at }) {
  const [rows, columns] = at;
  const tw = w / columns;
  const th = h / rows;
  const x = (token % columns) * tw;
  const y = Math.floor(token / columns) * th;
  const unit = Math.max(1, Math.round(w / 480));
  for (const [colour, width] of [
    ["#000", 4 * unit],
    ["#fff", 2 * unit],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x, y, tw, th);
    if (Math.min(tw, th) < 12 * unit) {
      context.beginPath();
      context.arc(x + tw / 2, y + th / 2, 9 * unit, 0, 7);
      context.stroke();
    }
  }
}

/** Lines from tokens to their best matches. */
function drawLines(context, w, h, matches) {
  const unit = Math.max(1, w / 480);
  const centre = (token, [rows, columns]) => [
    ((token % columns) + 0.5) * (w / columns),
    (Math.floor(token / columns) + 0.5) * (h / rows),
  ];
  for (const { from, to, fromHw, toHw, share } of matches) {
    const [x, y] = centre(from, fromHw);
    const [u, v] = centre(to, toHw);
    for (const [colour, width] of [
      ["rgba(0,0,0,0.65)", 3 * unit],
      [`rgb(${rgb([0.62 + 0.33 * share, 0.14, 195])})`, 1.4 * unit],
    ]) {
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(x, y);
      context.lineTo(u, v);
      context.stroke();
      context.beginPath();
      context.arc(x, y, 1.6 * width, 0, 7);
      context.fill();
    }
  }
}
