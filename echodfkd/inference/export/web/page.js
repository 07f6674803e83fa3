const SIDE = STUDENT.size, FPS = STUDENT.fps || 30, LV = STUDENT.classes.indexOf("LV"), KEPT = Math.round(20 * FPS);
const element = (id) => document.getElementById(id);
const view = element("view").getContext("2d"), curve = element("curve").getContext("2d");
const small = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE }).getContext("2d", { willReadFrequently: true });
const say = (text) => { element("status").textContent = text; };

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(element(id).textContent.trim()), (c) => c.charCodeAt(0));
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

async function openSession() {
  const code = URL.createObjectURL(new Blob([await unpacked("runtime")], { type: "text/javascript" }));
  const ort = await import(code);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpacked("wasm")).buffer;
  return [ort, await ort.InferenceSession.create(await unpacked("model"), { executionProviders: ["wasm"] })];
}

class Stream {
  constructor(ort, session) {
    this.ort = ort; this.session = session; this.area = []; this.volume = []; this.sure = []; this.same = []; this.mask = null; this.feed = {}; this.count = 0; this.spent = 0;
    STUDENT.states.forEach(([channels, coarser], place) => {
      const shape = [1, channels, SIDE / coarser, SIDE / coarser];
      this.feed[`state_${place}`] = new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
    });
  }
  async step(grey) {  // Float32Array of SIDE * SIDE grey levels -> logits of the left ventricle
    const begin = performance.now();
    this.feed.frame = new this.ort.Tensor("float32", grey, [1, SIDE, SIDE]);
    const found = await this.session.run(this.feed);
    STUDENT.states.forEach((_, place) => { this.feed[`state_${place}`] = found[`next_${place}`]; });
    const logits = found.logits.data.slice(LV * SIDE * SIDE, (LV + 1) * SIDE * SIDE);
    this.add(logits);
    this.count += 1; this.spent += performance.now() - begin;
    return logits;
  }
  add(logits) {
    const [area, volume, sure] = measure(logits), mask = logits.map((value) => (value > 0 ? 1 : 0));
    if (this.mask) {
      const both = mask.reduce((sum, value, i) => sum + value * this.mask[i], 0), total = area + this.area.at(-1);
      this.same.push(total ? 2 * both / total : 1);
    }
    this.mask = mask; this.area.push(area); this.volume.push(volume); this.sure.push(sure);
    if (this.area.length > KEPT) for (const kept of [this.area, this.volume, this.sure, this.same]) kept.shift();
  }
}

function measure(logits) {  // area in pixels, area-length volume 8 A^2 / (3 pi L), L = 4 standard deviations along the axis,
  let n = 0, sure = 0, sx = 0, sy = 0, sxx = 0, sxy = 0, syy = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > 0) {
    const x = i % SIDE, y = (i - x) / SIDE;
    n += 1; sure += 1 / (1 + Math.exp(-logits[i])); sx += x; sy += y; sxx += x * x; sxy += x * y; syy += y * y;
  }
  if (!n) return [0, 0, 0];
  const a = sxx / n - (sx / n) ** 2, b = sxy / n - (sx / n) * (sy / n), c = syy / n - (sy / n) ** 2;
  const length = 4 * Math.sqrt(Math.max(0, (a + c) / 2 + Math.sqrt(((a - c) / 2) ** 2 + b * b)));
  return [n, length > 0 ? 8 * n * n / (3 * Math.PI * length) : 0, sure];  // and the sum of the mask's probabilities
}

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

const span = (first, last) => Array.from({ length: Math.max(0, last - first) }, (_, k) => first + k);
const largest = (values) => values.indexOf(Math.max(...values));
const even = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));  // as Python rounds

function smooth(values) {
  const half = Math.max(1, even(0.1 * FPS / 2));
  return values.map((_, t) => {
    let sum = 0, weights = 0;
    for (let d = -half; d <= half; d++) if (t + d >= 0 && t + d < values.length) {
      const weight = half + 1 - Math.abs(d);
      sum += weight * values[t + d]; weights += weight;
    }
    return sum / weights;
  });
}

function percentile(values, percent) {
  const sorted = [...values].sort((a, b) => a - b), at = percent / 100 * (sorted.length - 1), below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

function beatFrames(curve) {
  const raw = curve.slice(1).map((value, t) => value - curve[t]), count = raw.length, mean = raw.reduce((a, b) => a + b, 0) / count;
  const slope = raw.map((value) => value - mean), first = Math.max(2, Math.floor(0.33 * FPS));
  const last = Math.min(Math.ceil(1.6 * FPS), Math.floor(count * 2 / 3));
  if (last <= first + 1 || !slope.some((value) => value)) return null;
  const own = (lag) => slope.slice(lag).reduce((sum, value, t) => sum + value * slope[t], 0), all = own(0);
  const lags = span(first, last + 1), like = lags.map((lag) => own(lag) / all / (1 - lag / count));
  const peaks = span(1, like.length - 1).filter((k) => like[k] >= like[k - 1] && like[k] >= like[k + 1]);
  const best = Math.max(...peaks.map((k) => like[k]));
  return !peaks.length || best < 0.6 ? null : lags[peaks.find((k) => like[k] >= 0.8 * best)];
}

function withoutTrend(curve) {
  const beat = beatFrames(curve);
  if (beat === null || curve.length < 2 * beat) return curve;
  const core = span(0, curve.length - beat + 1).map((t) => curve.slice(t, t + beat).reduce((a, b) => a + b, 0) / beat);
  const shift = (beat - 1) / 2, end = core.length - 1, reach = Math.max(1, Math.min(end, Math.floor(beat / 2)));
  return curve.map((value, t) => {
    const at = t - shift;
    if (at < 0) return value - (core[0] + (core[reach] - core[0]) / reach * at);
    if (at > end) return value - (core[end] + (core[end] - core[end - reach]) / reach * (at - end));
    const below = Math.floor(at);
    return value - (core[below] + (at - below) * ((core[below + 1] ?? core[below]) - core[below]));
  });
}

function turningPoints(curve, least) {
  const turns = [];
  let low = 0, high = 0, direction = 0;
  curve.forEach((value, t) => {
    if (value > curve[high]) high = t;
    if (value < curve[low]) low = t;
    if (direction >= 0 && curve[high] - value > least) { turns.push(high); direction = -1; low = t; }
    else if (direction <= 0 && value - curve[low] > least) { turns.push(low); direction = 1; high = t; }
  });
  return turns.length ? [...turns, direction > 0 ? high : low] : [];
}

function atLevel(found, curve, least) {
  const inner = found.filter(([, sure]) => sure).map(([frame]) => curve[frame]);
  const level = inner.length ? median(inner) : Math.max(...curve);
  return found.filter(([frame, sure]) => sure || curve[frame] >= level - least).map(([frame]) => frame);
}

function events(area) {  // as echodfkd.metrics.blind_events finds them
  if (area.length < 3 || Math.max(...area) === Math.min(...area)) return [[], []];
  const curve = withoutTrend(smooth(area));
  let size = percentile(curve, 95) - percentile(curve, 5), turns = turningPoints(curve, 0.35 * size);
  if (turns.length > 3) {
    size = median(turns.slice(1).map((frame, k) => Math.abs(curve[frame] - curve[turns[k]])));
    turns = turningPoints(curve, 0.4 * size);
  }
  if (!turns.length) return [[], []];
  const firstEd = curve[turns[0]] > curve[turns[1]] ? 0 : 1, tilt = 0.5 * size / FPS;
  for (let place = firstEd; place < turns.length; place += 2) {
    const first = place ? turns[place - 1] : 0, last = turns[place + 1] ?? curve.length - 1;
    turns[place] = first + largest(curve.slice(first, last + 1).map((value, k) => value + tilt * k));
  }
  const known = turns.map((frame, place) => [frame, place > 0 && place < turns.length - 1]);
  const kind = (parity) => known.filter((_, place) => place % 2 === parity), flipped = curve.map((value) => -value);
  return [atLevel(kind(firstEd), curve, 0.2 * size), atLevel(kind(1 - firstEd), flipped, 0.2 * size)];
}

function rhythm(area, volume) {
  const [ed, es] = events(area), efs = [], beats = [];
  ed.forEach((frame, place) => {
    const inside = es.filter((e) => frame < e && e < (ed[place + 1] ?? area.length));
    if (!inside.length) return;
    const end = inside.reduce((a, b) => (area[b] < area[a] ? b : a));
    beats.push([frame, end]);
    if (volume[end] > 0 && volume[end] <= volume[frame]) efs.push(100 * (1 - volume[end] / volume[frame]));
  });
  const most = es.length > ed.length ? es : ed, steps = most.slice(1).map((frame, place) => frame - most[place]);
  return { ed, es, beats, rate: steps.length ? 60 * FPS / median(steps) : NaN, ef: efs.length ? median(efs) : NaN };
}

const total = (values) => values.reduce((a, b) => a + b, 0);

function flags({ area, sure, same }, known) {  // as echodfkd.inference.flags finds them, of the frames that are kept
  const share = median(area) / SIDE ** 2, pixels = total(area);
  const values = {
    unsure: pixels ? total(sure) / pixels : NaN, jumps: same.length ? 1 - total(same) / same.length : NaN,
    small: share, large: share, empty: area.filter((n) => !n).length,
    beat: area.length < 2 * FPS ? NaN : known.beats.length, slow: known.rate, fast: known.rate,
  };
  const doubt = (name) => Math.min(10, (values[name] - STUDENT.limits[name][0]) / (STUDENT.limits[name][1] - STUDENT.limits[name][0]));
  const beyond = Object.keys(values).filter((name) => doubt(name) > 1).sort((a, b) => doubt(b) - doubt(a));
  return beyond.map((name) => [name, STUDENT.limits[name][2].replace(/\{(value|limit):\.(\d)(.)\}/g, (_, which, digits, kind) => {
    const number = which === "value" ? values[name] : STUDENT.limits[name][1];
    return kind === "%" ? `${(100 * number).toFixed(digits)}%` : number.toFixed(digits);
  })]);
}

function draw(source, width, height, logits, stream) {
  const full = view.canvas.width, scale = full / Math.max(width, height), cell = full / SIDE;
  view.fillRect(0, 0, full, full);
  view.drawImage(source, (full - width * scale) / 2, (full - height * scale) / 2, width * scale, height * scale);
  view.strokeStyle = "#56b4e9"; view.lineWidth = 2; view.beginPath();
  const inside = (x, y) => x >= 0 && y >= 0 && x < SIDE && y < SIDE && logits[y * SIDE + x] > 0;
  for (let y = 0; y <= SIDE; y++) for (let x = 0; x <= SIDE; x++) {
    if (inside(x, y) !== inside(x - 1, y)) { view.moveTo(x * cell, y * cell); view.lineTo(x * cell, (y + 1) * cell); }
    if (inside(x, y) !== inside(x, y - 1)) { view.moveTo(x * cell, y * cell); view.lineTo((x + 1) * cell, y * cell); }
  }
  view.stroke();
  show(stream);
}

function show(stream) {
  const { area, volume } = stream, known = rhythm(area, volume), W = curve.canvas.width, H = curve.canvas.height;
  const top = Math.max(1, ...area), at = (t) => [t * W / Math.max(1, area.length - 1), H - 8 - (H - 20) * area[t] / top];
  curve.clearRect(0, 0, W, H);
  curve.strokeStyle = "#56b4e9"; curve.lineWidth = 2; curve.beginPath();
  area.forEach((_, t) => curve.lineTo(...at(t)));
  curve.stroke();
  for (const [frames, colour] of [[known.ed, "#f0e442"], [known.es, "#e69f00"]]) {
    curve.fillStyle = colour;
    for (const t of frames) { const [x, y] = at(t); curve.fillRect(x - 3, y - 3, 6, 6); }
  }
  const text = (value, unit) => (Number.isFinite(value) ? `${value.toFixed(0)} ${unit}` : "–");
  element("rate").textContent = text(known.rate, "/min");
  element("ef").textContent = text(known.ef, "%");
  element("beats").textContent = String(known.beats.length);
  element("flags").replaceChildren(...flags(stream, known).map(([, text]) => Object.assign(document.createElement("li"), { textContent: text })));
  element("speed").textContent = `${(1000 * stream.count / stream.spent).toFixed(0)} frames/s`;
}

function grab(source, width, height) {  // the frame in the middle of a black square of the student's side, as grey levels
  const scale = SIDE / Math.max(width, height);
  small.fillRect(0, 0, SIDE, SIDE);
  small.imageSmoothingQuality = "high";
  small.drawImage(source, (SIDE - width * scale) / 2, (SIDE - height * scale) / 2, width * scale, height * scale);
  const rgba = small.getImageData(0, 0, SIDE, SIDE).data, grey = new Float32Array(SIDE * SIDE);
  for (let i = 0; i < grey.length; i++) grey[i] = Math.round(0.299 * rgba[4 * i] + 0.587 * rgba[4 * i + 1] + 0.114 * rgba[4 * i + 2]);
  return grey;
}

let turn = 0;  // a newer video ends the older one's loop
const happens = (target, name) => new Promise((done, fail) => {
  target.addEventListener(name, done, { once: true });
  target.addEventListener("error", () => fail(new Error("the browser cannot play this video; MP4 (H.264) and WebM work in most")), { once: true });
});

async function watch(video, isLive) {
  const own = ++turn, stream = new Stream(...await opened);
  const width = video.videoWidth, height = video.videoHeight;
  if (!isLive && !Number.isFinite(video.duration)) throw new Error("this video does not say how long it is; convert it to MP4");
  element("stop").disabled = false;
  for (let t = 0; own === turn && (isLive || t / FPS < video.duration); t++) {
    const begin = performance.now();
    if (!isLive) { const seeked = happens(video, "seeked"); video.currentTime = (t + 0.5) / FPS; await seeked; }
    draw(video, width, height, await stream.step(grab(video, width, height)), stream);
    say(isLive ? "Camera" : `Frame ${t + 1} of ${Math.ceil(video.duration * FPS)}`);
    await new Promise((done) => setTimeout(done, isLive ? Math.max(0, 1000 / FPS - (performance.now() - begin)) : 0));
  }
  if (own === turn) { element("stop").disabled = true; say(`Done: ${stream.count} frames`); }
  return stream;
}

async function openFile(file) {
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, preload: "auto" });
  const loaded = happens(video, "loadeddata");
  video.src = URL.createObjectURL(file);
  await loaded;
  const stream = await watch(video, false);
  URL.revokeObjectURL(video.src);
  return stream;
}

async function openCamera() {
  const media = await navigator.mediaDevices.getUserMedia({ video: true });
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, srcObject: media });
  await video.play();
  await watch(video, true);
  media.getTracks().forEach((track) => track.stop());
}

const guarded = (work) => async (...given) => { try { return await work(...given); } catch (error) { say(`Error: ${error.message}`); } };
const opened = openSession();
opened.then(() => say(`Ready: ${SIDE} x ${SIDE} pixels, ${FPS} frames a second`), (error) => say(`Error: ${error.message}`));
element("file").addEventListener("change", guarded(async (event) => { if (event.target.files[0]) await openFile(event.target.files[0]); }));
element("camera").addEventListener("click", guarded(openCamera));
element("stop").addEventListener("click", () => { turn += 1; element("stop").disabled = true; say("Stopped"); });
window.echodfkd = { opened, Stream, rhythm, flags, openFile };
