// SPDX-License-Identifier: Apache-2.0
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse(document.getElementById("data").textContent);
const names = [...new Set(data.flatMap(b => b.passes.flatMap(p => [...p.truth, ...p.smoothed].map(s => s[2]))))].sort();
const lightness = () => getComputedStyle(document.documentElement).getPropertyValue("--seg");
const colour = label => `hsl(${Math.round(names.indexOf(label) * 137.5 % 360)} 55% ${lightness()})`;
const seconds = t => t.toFixed(2) + " s";

function add(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}

function timeline(plot) {
  const pass = data[plot.dataset.bag].passes[plot.dataset.pass];
  const readout = plot.parentElement.querySelector(".readout");
  const whole = [pass.start, Math.max(pass.end, pass.start + 1)];
  let [from, to] = whole;
  const LEFT = 84, HEIGHT = 192;

  function draw() {
    const width = Math.max(plot.clientWidth, 320), inner = width - LEFT - 12;
    const x = t => LEFT + (t - from) / (to - from) * inner;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("aria-hidden", "true");
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600].find(s => inner * s / (to - from) > 70) || 7200;
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
      add(svg, "line", {x1: x(t), x2: x(t), y1: 6, y2: 166, class: "grid"});
      add(svg, "text", {x: x(t), y: 184, "text-anchor": "middle", class: "name"}, +t.toFixed(1) + " s");
    }
    const clip = add(svg, "svg", {x: LEFT, y: 0, width: inner, height: HEIGHT, viewBox: `${LEFT} 0 ${inner} ${HEIGHT}`});
    [["truth", pass.truth, 10], ["found", pass.smoothed, 48]].forEach(([name, list, y]) => {
      add(svg, "text", {x: 8, y: y + 20, class: "name"}, name);
      for (const [a, b, label] of list) {
        if (b < from || a > to) continue;
        const x0 = x(a), w = Math.max(x(b) - x0, 2);
        const box = add(clip, "rect", {x: x0, y, width: w, height: 30, rx: 3, fill: colour(label)});
        add(box, "title", {}, `${name}: ${label}, ${seconds(a)} to ${seconds(b)}`);
        const seen = Math.min(x0 + w, x(to)) - Math.max(x0, LEFT);
        if (seen > 9 * label.length * .8 + 8) add(clip, "text", {x: Math.max(x0, LEFT) + 5, y: y + 20, class: "inside"}, label);
      }
    });
    add(svg, "text", {x: 8, y: 96, class: "name"}, "windows");
    add(svg, "text", {x: 8, y: 140, class: "name"}, "score");
    add(svg, "text", {x: LEFT - 5, y: 112 + 5, "text-anchor": "end", class: "name"}, "1");
    add(svg, "text", {x: LEFT - 5, y: 166, "text-anchor": "end", class: "name"}, "0");
    const inside = pass.windows.filter(w => w[0] >= from - 5 && w[0] <= to + 5);
    const thin = Math.max(1, Math.floor(inside.length / 4000));
    let path = "", last = null;
    inside.forEach(([t, label, score, right], i) => {
      if (i % thin) return;
      path += (last === null || t - last > 2.5 ? "M" : "L") + x(t).toFixed(1) + " " + (166 - 54 * score).toFixed(1);
      last = t;
      const dot = add(clip, "rect", {x: x(t) - 2, y: right === 0 ? 92 : 86, width: 4, height: 10, class: ["na", "no", "ok"][right + 1]});
      add(dot, "title", {}, `${seconds(t)}: ${label} ${(100 * score).toFixed(1)} %${["", ", wrong", ", right"][right + 1]}`);
    });
    add(clip, "path", {d: path, class: "score"});
    plot.replaceChildren(svg);
    plot.dataset.from = from; plot.dataset.to = to;
  }
  function show(a, b, say = true) {
    const span = Math.min(Math.max(b - a, 0.5), whole[1] - whole[0]);
    const middle = (a + b) / 2;
    from = Math.min(Math.max(middle - span / 2, whole[0]), whole[1] - span);
    to = from + span;
    draw();
    if (say) {
      const here = list => list.filter(s => s[1] >= from && s[0] <= to).map(s => s[2]).join(", ") || "nothing";
      readout.textContent = `${seconds(from)} to ${seconds(to)}. Truth: ${here(pass.truth)}. Found: ${here(pass.smoothed)}.`;
    }
  }
  const act = {
    in: () => zoom(.5, (from + to) / 2), out: () => zoom(2, (from + to) / 2), all: () => show(...whole),
    left: () => show(from - (to - from) / 4, to - (to - from) / 4), right: () => show(from + (to - from) / 4, to + (to - from) / 4),
  };
  function zoom(factor, at) { show(at - (at - from) * factor, at + (to - at) * factor); }
  plot.addEventListener("keydown", event => {
    const name = {"+": "in", "=": "in", "-": "out", "−": "out", "0": "all", Home: "all", ArrowLeft: "left", ArrowRight: "right"}[event.key];
    if (name) { act[name](); event.preventDefault(); }
  });
  plot.parentElement.querySelectorAll("button").forEach(button => button.addEventListener("click", () => act[button.dataset.do]()));
  plot.addEventListener("wheel", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const box = plot.getBoundingClientRect();
    zoom(event.deltaY > 0 ? 1.25 : .8, from + (event.clientX - box.left - LEFT) / (box.width - LEFT - 12) * (to - from));
  }, {passive: false});
  let held = null;
  plot.addEventListener("pointerdown", event => { held = [event.clientX, from, to]; plot.setPointerCapture(event.pointerId); });
  plot.addEventListener("pointermove", event => {
    if (!held) return;
    const move = (event.clientX - held[0]) / (plot.clientWidth - LEFT - 12) * (held[2] - held[1]);
    show(held[1] - move, held[2] - move, false);
  });
  plot.addEventListener("pointerup", () => { held = null; });
  plot.addEventListener("pointercancel", () => { held = null; });
  new ResizeObserver(draw).observe(plot);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
document.querySelectorAll(".plot").forEach(timeline);

document.querySelectorAll("table.sortable").forEach(table => table.querySelectorAll("th button").forEach((button, column) =>
  button.addEventListener("click", () => {
    const head = button.parentElement, up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("thead th").forEach(th => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => { const cell = row.children[column]; return cell.dataset.v === undefined ? cell.textContent : +cell.dataset.v; };
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [p, q] = [value(a), value(b)];
      return (typeof p === "number" ? p - q : p.localeCompare(q)) * (up ? 1 : -1);
    });
    table.tBodies[0].append(...rows);
  })));
