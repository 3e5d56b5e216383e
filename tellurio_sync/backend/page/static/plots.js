// Plots of metrics: <tellurio-plot> with its data as JSON inside. Drawn by uPlot.
//
// What is drawn is thinned out by the server (of every span the lowest and the highest value); a closer look fetches
// the values of that span. A plot is drawn when it comes near the window, and then fetches its data, if the page has
// none of it. The controls of a page hold for all its plots, its legend too.
//
// Data: `x`, the steps, which all `runs` share, and of each run `y`: null is a gap, false is no value at that step.
// Where there are `columns` [begin, end, count, last step], x only says in which of them a value is. Along time and
// version each run has its own: `t`, `v`.

const known = new Map();
// Asking for a colour makes the browser look at all styles, so it is asked once.
const css = (name) => {
  if (!known.has(name)) known.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return known.get(name);
};
const LINES = 8;
const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];
const settings = {x: "step", log: false, smoothing: 0, off: new Set()};
const KEYS = {time: "t", version: "v"};
const plots = new Set();
const near = new IntersectionObserver((entries) => {
  for (const {target, isIntersecting} of entries) target.onNear(isIntersecting);
}, {rootMargin: "300px 0px"});

const format = (value) => {
  if (value == null) return "";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value).replace("-", "−");
  return Number(value.toPrecision(5)).toString().replace("-", "−");
};
const pad = (value) => String(value).padStart(2, "0");
const clock = (seconds) => {
  const date = new Date(seconds * 1000);
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} `
    + `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
};
const span = (seconds) => {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"]].filter(([size]) => seconds >= size);
  return parts.length ? `${format(seconds / parts[0][0])} ${parts[0][1]}` : `${format(seconds)} s`;
};

// The mean of the values so far, in which each weighs less than the one after it; unbiased at its begin.
function smoothed(values, weight) {
  let mean = 0;
  let sum = 0;
  return values.map((value) => {
    if (value == null) return value;
    mean = mean * weight + value * (1 - weight);
    sum = sum * weight + (1 - weight);
    return mean / sum;
  });
}

// Strictly growing, as joining wants it: values of one step stand a hair apart.
function growing(values) {
  const hair = ((values[values.length - 1] - values[0]) || 1) * 1e-9;
  let last = -Infinity;
  return values.map((value) => (last = value > last ? value : last + hair));
}

// The versions of the prompts of a page, for all its plots.
let marksText = null;
let marks = [];
function marksOfPage() {
  const text = document.getElementById("marks")?.textContent ?? "[]";
  if (text !== marksText) [marksText, marks] = [text, JSON.parse(text)];
  return marks;
}

// The library is run once the page has been seen: what a reader came for should not wait for it.
const seen = new Promise((resolve) => {
  new PerformanceObserver((list) => list.getEntriesByName("first-contentful-paint").length && resolve())
    .observe({type: "paint", buffered: true});
  setTimeout(resolve, 500);
});
let library = null;
function loadLibrary() {
  library ??= seen.then(() => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = resolve;
    script.onerror = reject;
    script.src = document.getElementById("uplot").href;
    document.head.append(script);
  }));
  return library;
}

class Plot extends HTMLElement {
  connectedCallback() {
    plots.add(this);
    near.observe(this);
    if (this.data) {
      this.tools();
      return;
    }
    this.data = JSON.parse(this.querySelector("script").textContent);
    this.isWanted = !this.data.x;
    this.along = {};
    this.view = null;
    this.isStale = true;
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.observer = new ResizeObserver(() => {
      const width = this.clientWidth;
      if (width && this.chart && width !== this.chart.width) this.chart.setSize({width, height: this.height()});
    });
    this.observer.observe(this);
    this.addEventListener("keydown", (event) => this.onKey(event));
    this.tools();
  }

  disconnectedCallback() {
    // It may only be on its way from one place of the document to another.
    queueMicrotask(() => {
      if (this.isConnected) return;
      plots.delete(this);
      near.unobserve(this);
      this.observer?.disconnect();
      this.chart?.destroy();
      this.chart = null;
    });
  }

  onNear(isNear) {
    this.isNear = isNear;
    if (isNear && this.isStale) this.show();
  }

  // New values of the same metric.
  take(json) {
    const data = JSON.parse(json);
    this.isWanted = !data.x;
    // What is drawn stays until the new values have come.
    if (data.x) this.data = data;
    this.along = {};
    this.closer = null;
    this.change();
    if (this.view) this.lookCloser();
  }

  // Draws anew. What is not drawn yet, or must be fetched, waits until it comes near.
  change() {
    this.isStale = true;
    if (this.isNear || (this.chart && !this.isIncomplete)) this.show();
  }

  get isIncomplete() {
    const axis = KEYS[settings.x];
    return Boolean(this.data.path) && (axis ? !this.has(axis) : this.isWanted);
  }

  // What is missing is fetched: time and versions, or the whole of a plot that was far down.
  async show() {
    this.isStale = false;
    if (!globalThis.uPlot) {
      try {
        await loadLibrary();
      } catch {
        library = null;
        this.isStale = true;
        return;
      }
    }
    const axis = KEYS[settings.x] ?? "";
    if (this.isIncomplete) {
      const found = await this.fetchSeries(axis ? {axis} : {});
      this.isStale = !found;
      // In the meantime something else may have been asked for.
      if (!found || axis !== (KEYS[settings.x] ?? "")) return;
      const runs = found.runs.map((run, i) => ({...this.data.runs[i], ...run}));
      if (axis) this.along[axis] = runs;
      else this.data = {...this.data, ...found, runs};
      this.isWanted &&= Boolean(axis);
    }
    this.draw();
  }

  has(axis) {
    return axis in this.along || this.data.runs.every((run) => run[axis] !== undefined);
  }

  async fetchSeries(span) {
    const query = new URLSearchParams({metric: this.data.name, ...span});
    for (const run of this.data.runs) if (run.key) query.append("run", run.key);
    try {
      const reply = await fetch(`${this.data.path}series.json?${query}`);
      return reply.ok ? await reply.json() : null;
    } catch {
      // The page says that the backend is gone.
      return null;
    }
  }

  height() {
    return this.closest(".single") ? 360 : 240;
  }

  // The runs along the axis that is chosen.
  lines() {
    return this.along[KEYS[settings.x]] ?? (this.closer ?? this.data).runs;
  }

  // What is drawn: x, then a line per run; where lines are smoothed, those in front of the raw ones.
  table() {
    const usable = (values) => (this.isLog ? values.map((value) => (value > 0 || value === undefined ? value : null)) : values);
    const key = KEYS[settings.x];
    if (!key) {
      const {x} = this.closer ?? this.data;
      return [x, ...this.lines().map(({y}) => usable(x.map((_, i) => (y[i] === false ? undefined : y[i]))))];
    }
    // Runs of different days are compared by how long they had been running.
    const since = (x) => (key === "t" && this.data.isSpan ? x.map((value) => value - x[0]) : x);
    const tables = this.lines().map((run) => [since(run[key] ?? []), run[key] ? usable(run.y) : []]);
    if (tables.length === 1) return tables[0];
    return uPlot.join(tables.map(([x, y]) => [growing(x), y]));
  }

  get isLog() {
    return settings.log && this.lines().some((run) => run.y.some((value) => value > 0));
  }

  draw() {
    this.chart?.destroy();
    const table = this.table();
    const lines = table.slice(1);
    const isSmooth = settings.smoothing > 0;
    const rows = isSmooth ? [...lines, ...lines.map((values) => smoothed(values, settings.smoothing))] : lines;
    const series = [{}];
    rows.forEach((values, i) => {
      const place = i % lines.length;
      const isRaw = isSmooth && i < lines.length;
      const stroke = css(`--line-${place % LINES + 1}`);
      series.push({
        label: this.data.runs[place].label,
        stroke: isRaw ? stroke + "55" : stroke,
        width: isRaw ? 1 : 1.75,
        dash: DASHES[Math.floor(place / LINES) % DASHES.length],
        show: !settings.off.has(this.data.runs[place].key),
        points: {show: lines.length === 1 && !isRaw && table[0].length <= 80, size: 5},
        spanGaps: false,
      });
    });
    const isClock = settings.x === "time" && !this.data.isSpan;
    const axis = {stroke: css("--soft"), grid: {stroke: css("--hair"), width: 1}, ticks: {stroke: css("--hair"), width: 1}};
    this.chart = new uPlot({
      width: Math.max(this.clientWidth, 200),
      height: this.height(),
      legend: {show: false},
      cursor: {drag: {x: true, y: false}, points: {size: 7}, y: false},
      scales: {x: {time: isClock}, y: {distr: this.isLog ? 3 : 1}},
      axes: [
        {...axis, size: 34, ...(isClock ? {} : {incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3,
          1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 1e8, 1e9, 1e10, 1e12, 1e15], values: (u, ticks) => ticks.map(settings.x === "time" ? span : format)})},
        {...axis, size: (u, labels) => 18 + 7 * Math.max(3, ...(labels ?? []).map((label) => (label ?? "").length)),
          values: (u, ticks) => ticks.map((tick) => (tick == null ? "" : format(tick)))},
      ],
      series,
      hooks: {
        draw: [(u) => this.drawMarks(u)],
        setCursor: [(u) => this.showTip(u)],
        setSelect: [(u) => { if (u.select.width) this.isZooming = true; }],
        setScale: [(u, key) => key === "x" && this.onScale(u)],
        ready: [(u) => u.over.addEventListener("click", (event) => this.onClick(u, event))],
      },
    }, [table[0], ...rows], this);
    this.append(this.tip);
    performance.clearMarks("plot drawn");
    performance.mark("plot drawn");
    if (this.view && this.view.x === settings.x) this.chart.setScale("x", this.view);
    else this.view = null;
  }

  // --- marks: where a prompt became another -------------------------------------------------------

  marks() {
    const run = this.data.runs.length === 1 ? this.data.runs[0] : {};
    const all = marksOfPage();
    const at = (mark, i) => ({step: run.marks?.[i], time: mark.t, version: mark.v})[settings.x];
    return all.map((mark, i) => ({...mark, at: at(mark, i)})).filter((mark) => mark.at != null);
  }

  drawMarks(u) {
    const {ctx, bbox} = u;
    const ratio = devicePixelRatio;
    let free = -Infinity;
    // Versions at one place are one mark: "v2–v6".
    const places = new Map();
    for (const mark of this.marks()) {
      const x = Math.round(u.valToPos(mark.at, "x", true));
      const same = places.get(x);
      if (!same) places.set(x, {first: mark.label, last: mark.label, isHere: mark.isHere});
      else Object.assign(same, {last: mark.label, isHere: same.isHere || mark.isHere});
    }
    ctx.save();
    ctx.lineWidth = ratio;
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    for (const [x, mark] of places) {
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = css(mark.isHere ? "--accent" : "--edge");
      ctx.globalAlpha = mark.isHere ? 1 : 0.55;
      ctx.setLineDash(mark.isHere ? [] : [3 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.globalAlpha = 1;
      if (x < free && !mark.isHere) continue;
      const label = mark.first === mark.last ? mark.first : `${mark.first}–${mark.last}`;
      ctx.fillText(label, x, bbox.top + 9 * ratio);
      free = x + (8 + 7 * label.length) * ratio;
    }
    ctx.restore();
  }

  nearestMark(u, left) {
    let best = null;
    for (const mark of this.marks()) {
      const distance = Math.abs(u.valToPos(mark.at, "x") - left);
      if (distance < 12 && (best === null || distance < best.distance)) best = {mark, distance};
    }
    return best?.mark;
  }

  onClick(u, event) {
    if (this.isZooming) {
      this.isZooming = false;
      return;
    }
    const mark = this.nearestMark(u, event.offsetX);
    if (!mark?.href) return;
    if (mark.isSwap) document.dispatchEvent(new CustomEvent("tellurio:swap", {detail: mark.href}));
    else location.assign(mark.href);
  }

  // --- a closer look ------------------------------------------------------------------------------

  onScale(u) {
    const {min, max} = u.scales.x;
    const x = u.data[0];
    const isWhole = !x.length || (min <= x[0] && max >= x[x.length - 1] && !this.closer);
    this.view = isWhole ? null : {x: settings.x, min, max};
    this.dataset.zoom = isWhole ? "" : `${format(min)} to ${format(max)}`;
    if (this.view && this.data.path && this.data.isThinned && settings.x === "step" && !this.isTaking) this.lookCloser();
  }

  lookCloser() {
    clearTimeout(this.later);
    this.later = setTimeout(async () => {
      if (!this.view) return;
      const found = await this.fetchSeries({from: Math.floor(this.view.min), to: Math.ceil(this.view.max)});
      if (!found || !this.view) return;
      this.closer = {...found, runs: this.data.runs.map((run, i) => ({...run, ...found.runs[i]}))};
      this.isTaking = true;
      this.draw();
      this.isTaking = false;
      this.dataset.points = String(this.closer.x.length);
    }, 120);
  }

  whole() {
    this.view = null;
    this.closer = null;
    this.dataset.zoom = "";
    if (this.chart) this.draw();
  }

  onKey(event) {
    const u = this.chart;
    const x = u?.data[0];
    if (!x?.length) return;
    const {min, max} = u.scales.x;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const at = (u.cursor.idx ?? (event.key === "ArrowRight" ? -1 : x.length)) + (event.key === "ArrowRight" ? 1 : -1);
      const place = Math.min(Math.max(at, 0), x.length - 1);
      const value = u.data[1][place];
      u.setCursor({left: u.valToPos(x[place], "x"), top: value == null ? 0 : u.valToPos(value, "y")});
    } else if (event.key === "+" || event.key === "-") {
      const centre = u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : (min + max) / 2;
      const factor = event.key === "+" ? 0.5 : 2;
      const low = Math.max(centre - (centre - min) * factor, this.first());
      const high = Math.min(centre + (max - centre) * factor, this.last());
      if (low <= this.first() && high >= this.last()) this.whole();
      else u.setScale("x", {min: low, max: high});
    } else if (event.key === "0" || event.key === "Escape") {
      this.whole();
    } else if (event.key === "Enter") {
      this.onClick(u, {offsetX: u.cursor.left});
    } else {
      return;
    }
    event.preventDefault();
  }

  xs() {
    const key = KEYS[settings.x];
    return key ? this.lines().filter((run) => run[key]?.length).map((run) => run[key]) : [this.data.x];
  }

  first() {
    return Math.min(...this.xs().map((x) => x[0]));
  }

  last() {
    return Math.max(...this.xs().map((x) => x[x.length - 1]));
  }

  formatX(value) {
    if (settings.x === "time") return this.data.isSpan ? `after ${span(value)}` : clock(value);
    if (settings.x === "version") return `version ${Math.floor(value)}`;
    const {columns} = this.closer ?? this.data;
    if (!columns || columns[0] === columns[1]) return `step ${format(value)}`;
    const [low, high, count, last] = columns;
    const width = (high - low) / count;
    const column = Math.min(Math.floor((value - low) / width + 1e-6), count - 1);
    const end = column === count - 1 ? last : Math.ceil(low + (column + 1) * width - 1e-6) - 1;
    return `steps ${format(Math.ceil(low + column * width - 1e-6))} to ${format(end)}`;
  }

  // --- the value under the pointer ------------------------------------------------------------------

  showTip(u) {
    const {idx, left, top} = u.cursor;
    this.tip.hidden = idx == null || left < 0;
    if (this.tip.hidden) return;
    const count = this.data.runs.length;
    const isSmooth = u.data.length - 1 > count;
    const found = [];
    for (let i = 1; i <= count; i++) {
      if (!u.series[i].show) continue;
      const at = nearest(u.data[i], idx);
      if (at == null) continue;
      const value = u.data[i][at];
      const smooth = isSmooth ? ` (smoothed ${format(u.data[i + count][at])})` : "";
      found.push({y: u.valToPos(value, "y"), x: u.data[0][at], text: format(value) + smooth, label: this.data.runs[i - 1].label});
    }
    found.sort((a, b) => Math.abs(a.y - top) - Math.abs(b.y - top));
    const rows = [this.formatX(found[0]?.x ?? u.data[0][idx])];
    for (const row of found.slice(0, 8)) rows.push(count > 1 ? `${row.label}: ${row.text}` : row.text);
    const mark = this.nearestMark(u, left);
    if (mark) rows.push(`${mark.label}${mark.title ? `: ${mark.title}` : ""}${mark.href ? " (click to see why)" : ""}`);
    this.tip.replaceChildren(...rows.map((text) => Object.assign(document.createElement("div"), {textContent: text})));
    const {offsetLeft, offsetTop} = u.over;
    const isRight = left > u.over.clientWidth / 2;
    this.tip.style.left = isRight ? "" : `${offsetLeft + left + 14}px`;
    this.tip.style.right = isRight ? `${this.clientWidth - offsetLeft - left + 14}px` : "";
    this.tip.style.top = `${offsetTop + 8}px`;
    u.over.style.cursor = mark?.href ? "pointer" : "";
  }

  // --- to take away ---------------------------------------------------------------------------------

  tools() {
    if (this.nextElementSibling?.matches(".plot-tools")) return;
    const row = document.createElement("p");
    row.className = "links plot-tools";
    const csv = document.createElement("a");
    csv.href = `${this.data.path}values.csv?${new URLSearchParams([["metric", this.data.name],
      ...this.data.runs.filter((run) => run.key).map((run) => ["run", run.key])])}`;
    csv.textContent = "CSV";
    csv.download = "";
    // In a report there is no server to ask for all values.
    if (this.data.path) row.append(csv);
    for (const [label, save] of [["PNG", () => this.savePng()], ["SVG", () => this.saveSvg()]]) {
      const button = Object.assign(document.createElement("button"), {type: "button", className: "plain", textContent: label});
      button.addEventListener("click", save);
      row.append(button);
    }
    const whole = Object.assign(document.createElement("button"), {type: "button", className: "plain", textContent: "Show all"});
    whole.addEventListener("click", () => this.whole());
    row.append(whole);
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", `Take away ${this.data.name}`);
    this.after(row);
  }

  savePng() {
    if (!this.chart) return;
    const from = this.chart.ctx.canvas;
    const canvas = document.createElement("canvas");
    const head = 28 * devicePixelRatio;
    canvas.width = from.width;
    canvas.height = from.height + head;
    const ctx = canvas.getContext("2d");
    ctx.fillStyle = css("--card");
    ctx.fillRect(0, 0, canvas.width, canvas.height);
    ctx.fillStyle = css("--ink");
    ctx.font = `600 ${14 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.fillText(this.data.name, 10 * devicePixelRatio, 19 * devicePixelRatio);
    ctx.drawImage(from, 0, head);
    canvas.toBlob((blob) => save(blob, `${fileName(this.data.name)}.png`));
  }

  // The same lines, axes and marks as elements: for papers, and for who wants to change them.
  saveSvg() {
    const u = this.chart;
    if (!u) return;
    const {left, top, width, height} = Object.fromEntries(Object.entries(u.bbox).map(([k, v]) => [k, v / devicePixelRatio]));
    const out = [];
    const add = (name, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text != null) made.textContent = text;
      out.push(made);
    };
    add("rect", {width: u.width, height: u.height, fill: css("--card")});
    add("text", {x: left, y: top - 2, "font-size": 13, fill: css("--ink")}, this.data.name);
    for (const [key, i] of [["x", 0], ["y", 1]]) {
      const {_splits: splits, _values: labels} = u.axes[i];
      (splits ?? []).forEach((split, n) => {
        const at = u.valToPos(split, key);
        const line = key === "x" ? {x1: left + at, x2: left + at, y1: top, y2: top + height}
          : {x1: left, x2: left + width, y1: top + at, y2: top + at};
        add("line", {...line, stroke: css("--hair")});
        const place = key === "x" ? {x: left + at, y: top + height + 18, "text-anchor": "middle"}
          : {x: left - 8, y: top + at + 4, "text-anchor": "end"};
        add("text", {...place, "font-size": 12, fill: css("--soft")}, labels?.[n] ?? "");
      });
    }
    for (const mark of this.marks()) {
      const at = left + u.valToPos(mark.at, "x");
      if (at < left || at > left + width) continue;
      add("line", {x1: at, x2: at, y1: top, y2: top + height, stroke: css("--edge"), "stroke-dasharray": "3 3"});
      add("text", {x: at, y: top + 9, "font-size": 11, "text-anchor": "middle", fill: css("--soft")}, mark.label);
    }
    u.series.slice(1).forEach((series, i) => {
      if (!series.show) return;
      let path = "";
      let isDown = false;
      u.data[i + 1].forEach((value, n) => {
        if (value === undefined) return;
        if (value === null) { isDown = false; return; }
        const x = left + u.valToPos(u.data[0][n], "x");
        path += `${isDown ? "L" : "M"}${x.toFixed(1)} ${(top + u.valToPos(value, "y")).toFixed(1)}`;
        isDown = true;
      });
      const stroke = series.stroke instanceof Function ? series.stroke(u, i + 1) : series.stroke;
      add("path", {d: path, fill: "none", stroke, "stroke-width": series.width, "stroke-dasharray": (series.dash ?? []).join(" ")});
    });
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [key, value] of Object.entries({viewBox: `0 0 ${u.width} ${u.height}`, width: u.width, height: u.height,
      "font-family": "system-ui, sans-serif"})) svg.setAttribute(key, value);
    svg.append(...out);
    const text = new XMLSerializer().serializeToString(svg);
    save(new Blob([text], {type: "image/svg+xml"}), `${fileName(this.data.name)}.svg`);
  }
}

function nearest(values, at) {
  for (let i = 0; i < values.length; i++) {
    if (values[at - i] != null) return at - i;
    if (values[at + i] != null) return at + i;
  }
  return null;
}

function fileName(name) {
  return name.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 80) || "plot";
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// --- what holds for all plots of the page -------------------------------------------------------------

const drawAll = () => plots.forEach((plot) => plot.change());

document.addEventListener("input", (event) => {
  const controls = event.target.closest("#plot-controls");
  if (!controls) return;
  settings.x = controls.querySelector("[name=x]").value;
  settings.log = controls.querySelector("[name=log]").checked;
  settings.smoothing = Number(controls.querySelector("[name=smoothing]").value);
  plots.forEach((plot) => { plot.closer = null; plot.change(); });
});

// Of use with script only, so they are hidden without. A page that was replaced gets them as they were.
function showControls() {
  const controls = document.getElementById("plot-controls");
  if (!controls) return;
  controls.hidden = false;
  controls.querySelector("[name=x]").value = settings.x;
  controls.querySelector("[name=log]").checked = settings.log;
  controls.querySelector("[name=smoothing]").value = settings.smoothing;
  for (const box of document.querySelectorAll("[name=line]")) box.checked = !settings.off.has(box.value);
}
document.addEventListener("tellurio:shown", showControls);
showControls();
document.addEventListener("change", (event) => {
  if (event.target.name !== "line") return;
  settings.off = new Set(Array.from(document.querySelectorAll("[name=line]:not(:checked)"), (box) => box.value));
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  known.clear();
  drawAll();
});
// On paper there is no coming near.
addEventListener("beforeprint", () => plots.forEach((plot) => !plot.chart && plot.data.x && globalThis.uPlot && plot.draw()));
customElements.define("tellurio-plot", Plot);
