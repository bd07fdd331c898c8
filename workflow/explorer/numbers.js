// The study and its arrays, as stored in the page, and arithmetic on them.

const byId = (id) => document.getElementById(id);

async function unzip(id) {
  const packed = Uint8Array.from(atob(byId(id).textContent), (character) => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")));
}

const study = JSON.parse(byId("study").textContent);
const bytes = await (await unzip("arrays")).arrayBuffer();
const unpacked = new WeakMap();

// Nested arrays of the stored shape; an array that is not stored, as of the live model, comes back as it is.
function array(place) {
  if (Array.isArray(place)) return place;
  if (!unpacked.has(place)) {
    const kind = { float32: Float32Array, int16: Int16Array, uint16: Uint16Array }[place.type];
    const count = place.shape.reduce((product, size) => product * size, 1);
    const stored = new kind(bytes.slice(place.start, place.start + count * kind.BYTES_PER_ELEMENT));
    const values = Array.from(stored, (value) => value * (place.step ?? 1));
    unpacked.set(place, nested(values, place.shape));
  }
  return unpacked.get(place);
}

function nested(values, shape) {
  if (shape.length === 1) return values;
  const size = values.length / shape[0];
  return range(shape[0]).map((row) => nested(values.slice(row * size, (row + 1) * size), shape.slice(1)));
}

const unique = (values) => [...new Set(values)];
const range = (count) => Array.from({ length: count }, (_, index) => index);
const largest = (values) => values.reduce((best, value) => (value > best ? value : best), -Infinity);
const smallest = (values) => values.reduce((best, value) => (value < best ? value : best), Infinity);
const extremesKnown = new WeakMap();

// The smallest and the largest number in nested arrays; kept, for stored ones stay as they are.
function extremes(values) {
  if (!extremesKnown.has(values)) {
    const flat = values.flat(Infinity);
    extremesKnown.set(values, [smallest(flat), largest(flat)]);
  }
  return extremesKnown.get(values);
}

const nearest = (values, wanted) =>
  values.reduce((best, value) => (Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best));
const short = (value) => Number(value.toPrecision(3)).toString();
const transposed = (rows) => rows[0].map((_, column) => rows.map((row) => row[column]));
// How many of the ascending values are at most `limit`.
const countUpTo = (values, limit) => values.filter((value) => value <= limit).length;

function meanAndDeviation(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return [mean, Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)];
}

// A curve up to x = `end`, with its last point there.
function curveUpTo(x, y, end) {
  const count = countUpTo(x, end);
  if (count === 0 || count === x.length || x[count - 1] === end) return { x: x.slice(0, count), y: y.slice(0, count) };
  const share = (end - x[count - 1]) / (x[count] - x[count - 1]);
  const last = y[count - 1] + share * (y[count] - y[count - 1]);
  return { x: [...x.slice(0, count), end], y: [...y.slice(0, count), last] };
}
