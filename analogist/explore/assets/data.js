// The page's data: what there is, and unpacking of blocks on demand. A chunk is zlib in base64; a block lies in one chunk.
const sources = manifest.sources;
const KEEP = 400e6; // bytes of unpacked chunks kept
const chunks = new Map(); // id -> Uint8Array, least recently used first
const waiting = new Map(); // id -> promise
let unpacked = 0;

const groups = new Map();
for (const group of manifest.groups) {
  group.steps = group.places.map((place) => place[0]);
  group.at = new Map(group.places.map((place) => [place[0], place]));
  group.self = group.columns === null;
  groups.set([group.source, group.site, group.view, group.branch].join("|"), group);
}

/** The group of a source's map, in the branch asked for or else the one there is; undefined where it was not kept. */
function groupOf(source, site, view, branch) {
  return (
    groups.get([source, site, view, branch].join("|")) ??
    groups.get([source, site, view, "text"].join("|")) ??
    groups.get([source, site, view, "negative"].join("|"))
  );
}

function bytesOf(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Unpacks a chunk; resolves to its bytes. */
function loadChunk(id) {
  if (chunks.has(id)) return Promise.resolve(chunks.get(id));
  if (!waiting.has(id)) {
    const text = document.getElementById(`chunk-${id}`).textContent;
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const done = new Response(stream).arrayBuffer().then((buffer) => {
      const bytes = new Uint8Array(buffer);
      chunks.set(id, bytes);
      unpacked += bytes.length;
      for (const [old, data] of chunks) {
        if (unpacked <= KEEP || old === id) break;
        chunks.delete(old);
        unpacked -= data.length;
      }
      waiting.delete(id);
      return bytes;
    });
    waiting.set(id, done);
  }
  return waiting.get(id);
}

/** The chunks of a group's steps that are not unpacked yet. */
function missingChunks(group, steps) {
  const ids = new Set(steps.map((step) => group.at.get(step)[1]));
  return [...ids].filter((id) => !chunks.has(id));
}

/** One step of a group: flow, encoding, scales and codes as views into its chunk; null where it is not unpacked. */
function blockOf(group, step) {
  const [, id, offset] = group.at.get(step);
  const bytes = chunks.get(id);
  if (bytes === undefined) return null;
  chunks.delete(id); // to the end: most recently used
  chunks.set(id, bytes);
  const rows = group.count * group.rows;
  let at = offset;
  let flow = null;
  if (group.self && group.view === "probs") {
    const numbers = group.count * sources[group.source].cells.length ** 2;
    flow = new Float32Array(bytes.buffer, at, numbers);
    at += numbers * 4;
  }
  const encoding = bytes[at];
  at += 4;
  const scales = new Float32Array(bytes.buffer, at, rows * encoding);
  at += rows * encoding * 4;
  return { flow, encoding, scales, codes: bytes.subarray(at, at + rows * group.width) };
}

const SQUARES = Float64Array.from({ length: 256 }, (_, code) => (code / 255) ** 2);
