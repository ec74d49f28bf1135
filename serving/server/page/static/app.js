// The page of a Conveyor server: draws, asks, shows. Everything it needs comes from the server that served it.
"use strict";

const byId = (id) => document.getElementById(id);
const pad = byId("pad");
const ink = pad.getContext("2d", { willReadFrequently: true });
let models = [];
let picture = null; // a file that was dropped, pasted or opened; null while drawing
let cursor = { x: 140, y: 140, down: false };
let asking = false;
let cleared = 0; // how often; answers to what was drawn before come too late
let askAgain = false;

const model = () => models.find((one) => one.name === byId("model").value);

async function start() {
  models = await (await fetch("/page/models")).json();
  for (const one of models) byId("model").add(new Option(one.name, one.name));
  if (!models.length) return say("No model with a shape and classes is served here.", true);
  byId("model").addEventListener("change", () => { clear(); showScores([], []); });
  byId("clear").addEventListener("click", clear);
  byId("file").addEventListener("change", (event) => open(event.target.files[0]));
  drawing();
  dropping();
  clear();
}

function say(text, failed = false) {
  byId("answered").textContent = text;
  byId("answered").classList.toggle("failed", failed);
}

// Drawing: white on black, as MNIST has it.

function clear() {
  picture = null;
  cleared += 1;
  askAgain = false;
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, pad.width, pad.height);
  const [height, width] = model().shape;
  Object.assign(byId("seen"), { width, height });
  byId("inside").hidden = true;
  byId("best").textContent = "\u00a0";
  showScores(model().classes, model().classes.map(() => 0));
  say("Nothing has been asked yet.");
}

function stroke(from, to) {
  if (picture) clear();
  ink.strokeStyle = "#fff";
  ink.lineWidth = 20;
  ink.lineCap = ink.lineJoin = "round";
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
  ask();
}

function drawing() {
  let last = null;
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return { x: (event.clientX - box.left) * pad.width / box.width, y: (event.clientY - box.top) * pad.height / box.height };
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    last = at(event);
    stroke(last, last);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const next = at(one);
      stroke(last, next);
      last = next;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => { last = null; });
  const steps = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
  pad.addEventListener("keydown", (event) => {
    if (event.key === "Escape" || event.key === "Delete") clear();
    else if (event.key === " ") {
      cursor.down = !cursor.down;
      if (cursor.down) stroke(cursor, cursor);
      say(cursor.down ? "The pen is down: arrow keys draw." : "The pen is up: arrow keys move.");
    } else if (event.key in steps) {
      const [x, y] = steps[event.key];
      const next = { x: clamp(cursor.x + x, 10, 270), y: clamp(cursor.y + y, 10, 270), down: cursor.down };
      if (cursor.down) stroke(cursor, next);
      cursor = next;
      if (!cursor.down) say(`The pen is up, at ${Math.round(cursor.x)}, ${Math.round(cursor.y)} of 280.`);
    } else return;
    event.preventDefault();
  });
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

// Pictures.

function dropping() {
  const body = document.body;
  body.addEventListener("dragover", (event) => { event.preventDefault(); body.classList.add("dropping"); });
  body.addEventListener("dragleave", () => body.classList.remove("dropping"));
  body.addEventListener("drop", (event) => {
    event.preventDefault();
    body.classList.remove("dropping");
    open(event.dataTransfer.files[0]);
  });
  body.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
}

// The file goes to the model as it is, which makes pixels of it; what is shown on the pad is a preview.
async function open(file) {
  if (!file) return;
  clear();
  picture = file;
  ask();
  try {
    const preview = await createImageBitmap(file);
    if (picture !== file) return; // something else was drawn or opened meanwhile
    const scale = Math.min(pad.width / preview.width, pad.height / preview.height);
    const [w, h] = [preview.width * scale, preview.height * scale];
    ink.imageSmoothingQuality = "high";
    ink.drawImage(preview, (pad.width - w) / 2, (pad.height - h) / 2, w, h);
  } catch { /* the model may read what this browser cannot */ }
}

// A drawing as the network gets it: bytes of [height, width, channels].

function pixels() {
  const [height, width, channels] = model().shape;
  const small = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  small.fillStyle = "#000";
  small.fillRect(0, 0, width, height);
  const box = channels === 1 ? inked() : null;
  if (box) centred(small, box, width, height);
  else shrunk(small, width, height);
  const { data } = small.getImageData(0, 0, width, height);
  const bytes = new Uint8Array(height * width * channels);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < channels; c++) bytes[channels * i + c] = data[4 * i + c]; // white on black: every channel is grey
  }
  return bytes;
}

// What the network got, as the server says, and how it came to be.
function showSeen(seen) {
  const { shape: [height, width, channels], resize, background } = model();
  const bytes = Uint8Array.from(atob(seen), (char) => char.charCodeAt(0));
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[channels * i + (channels < 3 ? 0 : c)];
    image.data[4 * i + 3] = channels === 4 ? bytes[4 * i + 3] : 255;
  }
  byId("seen").getContext("2d").putImageData(image, 0, 0);
  const pictures = {
    squash: "the whole picture, brought to its height and width",
    crop: "the middle of the picture",
    pad: `the whole picture, with ${background} around it`,
  };
  const drawing = channels === 1 ? "the ink, scaled into 20 of 28 pixels and centred, as MNIST's digits are" : "the drawing";
  byId("seen-caption").textContent = `What the network gets: ${picture ? pictures[resize] : drawing}`;
}

// The rectangle that holds the ink, and the ink's centre of mass.
function inked() {
  const data = ink.getImageData(0, 0, pad.width, pad.height).data;
  let [left, right, top, bottom, mass, sumX, sumY] = [pad.width, -1, pad.height, -1, 0, 0, 0];
  for (let y = 0; y < pad.height; y++) {
    for (let x = 0; x < pad.width; x++) {
      const value = data[4 * (y * pad.width + x)];
      if (value < 32) continue;
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
      mass += value; sumX += value * x; sumY += value * y;
    }
  }
  return mass ? { left, top, width: right - left + 1, height: bottom - top + 1, x: sumX / mass, y: sumY / mass } : null;
}

// MNIST's own way: the ink scaled into 20 of 28 pixels, its centre of mass in the middle.
function centred(small, box, width, height) {
  const scale = (20 / 28) * Math.min(width / box.width, height / box.height);
  const [w, h] = [Math.max(1, box.width * scale), Math.max(1, box.height * scale)];
  const x = width / 2 - (box.x - box.left) * scale;
  const y = height / 2 - (box.y - box.top) * scale;
  small.imageSmoothingQuality = "high";
  small.drawImage(halved(box, w, h), clamp(x, 0, Math.max(0, width - w)), clamp(y, 0, Math.max(0, height - h)), w, h);
}

function shrunk(small, width, height) {
  small.imageSmoothingQuality = "high";
  small.drawImage(halved({ left: 0, top: 0, width: pad.width, height: pad.height }, width, height), 0, 0, width, height);
}

// A part of the pad, halved until it is less than twice as large as wanted: browsers shrink badly in one step.
function halved(box, width, height) {
  let canvas = new OffscreenCanvas(box.width, box.height);
  canvas.getContext("2d").drawImage(pad, box.left, box.top, box.width, box.height, 0, 0, box.width, box.height);
  while (canvas.width >= 2 * width && canvas.height >= 2 * height && canvas.width > 1 && canvas.height > 1) {
    const half = new OffscreenCanvas(Math.ceil(canvas.width / 2), Math.ceil(canvas.height / 2));
    const context = half.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(canvas, 0, 0, half.width, half.height);
    canvas = half;
  }
  return canvas;
}

// Asking: one request at a time, and the newest picture next.

async function ask() {
  if (asking) { askAgain = true; return; }
  asking = true;
  do {
    askAgain = false;
    const before = cleared;
    await new Promise(requestAnimationFrame);
    if (before === cleared) await once();
  } while (askAgain);
  asking = false;
}

async function once() {
  const asked = model();
  const started = performance.now();
  try {
    const file = picture, before = cleared;
    const response = await fetch(`/page/models/${encodeURIComponent(asked.name)}${file ? "/picture" : ""}`, {
      method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file ?? pixels(),
    });
    const reply = await response.json();
    if (asked !== model() || file !== picture || before !== cleared) return; // of what is not there any more
    if (!response.ok) return say(file ? `${file.name}: ${reply.error}` : reply.error, true);
    const best = reply.scores.indexOf(Math.max(...reply.scores));
    byId("best").textContent = reply.classes[best];
    showScores(reply.classes, reply.scores, best);
    showSeen(reply.seen);
    showInside(reply);
    say(`${asked.name} version ${reply.version} answered in ${reply.milliseconds.toFixed(1)} ms ` +
      `(${Math.round(performance.now() - started)} ms with the picture's way).`);
  } catch {
    say("The server does not answer.", true);
  }
}

function showScores(classes, scores, best = -1) {
  const rows = classes.map((name, index) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    const meter = Object.assign(document.createElement("meter"), { value: scores[index], max: 1 });
    meter.setAttribute("aria-label", `score of ${name}`);
    const number = document.createElement("td");
    number.textContent = `${(100 * scores[index]).toFixed(1)} %`;
    const cell = document.createElement("td");
    cell.append(meter);
    row.append(head, cell, number);
    row.classList.toggle("best", index === best);
    return row;
  });
  byId("scores").tBodies[0].replaceChildren(...rows);
}

// Kernels and activation maps: sheets of small pictures.

function showInside(reply) {
  byId("inside").hidden = !reply.layers.length;
  const sheets = reply.layers.map((layer) => {
    const [count, height, width] = layer.shape;
    return sheet(layer.name, `${count} maps of ${height}\u00d7${width}`, layer, 1);
  });
  byId("layers").replaceChildren(...sheets);
  if (!reply.kernels) return byId("kernels").replaceChildren();
  const [count, height, width, channels] = reply.kernels.shape;
  byId("kernels").replaceChildren(
    sheet("first kernels", `${count} of ${height}\u00d7${width}\u00d7${channels}`, reply.kernels, channels === 3 ? 3 : 1));
}

function sheet(name, about, { shape, values }, channels) {
  const [count, height, width] = shape;
  const depth = shape.length > 3 ? shape[3] : 1;
  const bytes = Uint8Array.from(atob(values), (char) => char.charCodeAt(0));
  const columns = Math.min(count, document.body.clientWidth < 640 ? 8 : 16);
  const rows = Math.ceil(count / columns);
  const canvas = Object.assign(document.createElement("canvas"),
    { width: columns * (width + 1) - 1, height: rows * (height + 1) - 1 });
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let one = 0; one < count; one++) {
    const [left, top] = [(one % columns) * (width + 1), Math.floor(one / columns) * (height + 1)];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const from = ((one * height + y) * width + x) * depth;
        const to = 4 * ((top + y) * canvas.width + left + x);
        for (let c = 0; c < 3; c++) image.data[to + c] = bytes[from + (channels === 3 ? c : 0)];
        image.data[to + 3] = 255;
      }
    }
  }
  context.putImageData(image, 0, 0);
  canvas.style.width = `${Math.min(8 * canvas.width, 960)}px`; // and no wider than the page
  canvas.setAttribute("aria-label", `${name}: ${about}`);
  canvas.setAttribute("role", "img");
  const block = document.createElement("div");
  block.className = "sheet";
  const title = document.createElement("h3");
  const detail = document.createElement("span");
  title.textContent = `${name} `;
  detail.textContent = about;
  title.append(detail);
  block.append(title, canvas);
  return block;
}

start();
