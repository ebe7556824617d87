// Charts as SVG: colours are variables of the style sheet, so that a change of theme needs no new drawing.
var SHAPES = [
  "M-3.2,0a3.2,3.2 0 1,0 6.4,0a3.2,3.2 0 1,0 -6.4,0", "M-3,-3h6v6h-6z", "M0,-4l3.8,6.8h-7.6z", "M0,-4.2l4.2,4.2l-4.2,4.2l-4.2,-4.2z",
  "M-3.8,-2.8h7.6l-3.8,6.8z", "M-4,0l6.8,-3.8v7.6z", "M4,0l-6.8,3.8v-7.6z", "M-1.4,-4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z"
];
var LINE_SHAPES = 5; // a number that shares no factor with the eight colours, so that forty lines differ
var DASHES = ["", "6 3", "2 3", "8 3 2 3"];

function scaleOf(low, high, start, end) {
  var span = high - low || 1;
  return function (value) { return start + (value - low) / span * (end - start); };
}

function marker(number, x, y, filled) {
  return s("path", { d: SHAPES[number % LINE_SHAPES], transform: "translate(" + x + "," + y + ")",
    style: { fill: filled === false ? "var(--raised)" : color(number), stroke: color(number), "stroke-width": 1.4 } });
}

function legend(names) {
  return h("ul", { class: "legend" }, names.map(function (name, number) {
    return h("li", {}, s("svg", { viewBox: "0 0 24 12", "aria-hidden": "true" },
      s("line", { x1: 0, x2: 24, y1: 6, y2: 6, style: { stroke: color(number), "stroke-width": 2, "stroke-dasharray": DASHES[Math.floor(number / 2) % 4] } }),
      marker(number, 12, 6)), bdi(name));
  }));
}

function axes(svg, frame, x, y, xs, ys, xTitle) {
  var below = tickLabels(xs), beside = tickLabels(ys);
  ys.forEach(function (value, i) {
    svg.appendChild(s("line", { class: "axis", x1: frame.left, x2: frame.right, y1: y(value), y2: y(value) }));
    svg.appendChild(s("text", { x: frame.left - 6, y: y(value) + 4, "text-anchor": "end" }, beside[i]));
  });
  xs.forEach(function (value, i) { svg.appendChild(s("text", { x: x(value), y: frame.bottom + 16, "text-anchor": "middle" }, below[i])); });
  svg.appendChild(s("text", { x: (frame.left + frame.right) / 2, y: frame.bottom + 31, "text-anchor": "middle" }, xTitle));
}

function path(points) {
  return points.map(function (p, i) { return (i ? "L" : "M") + p[0].toFixed(1) + "," + p[1].toFixed(1); }).join("");
}

// options: title, subtitle, unit, xTitle, series [{name, group, points: [x, y, low, high], dots: [x, y, given, target]}]
function lineFigure(options) {
  var series = options.series, names = [], head = [options.xTitle], label, range = extent(options), read = readerOf(range[0], range[1]);
  series.forEach(function (one) { var name = one.group || one.name; if (names.indexOf(name) < 0) { names.push(name); } });
  var xs = [];
  series.forEach(function (one) { one.points.forEach(function (p) { if (xs.indexOf(p[0]) < 0) { xs.push(p[0]); } }); });
  xs.sort(function (a, b) { return a - b; });
  label = options.title + ", " + options.unit + ". " + series.map(function (one) {
    var first = one.points[0], last = one.points[one.points.length - 1];
    return one.name + ": " + (first ? read(first[1]) + " at " + short(first[0]) + (last !== first ? ", " + read(last[1]) + " at " + short(last[0]) : "") : "no values");
  }).join("; ") + ". Arrow keys read the values.";
  var box = h("div", { class: "plot" });
  var figure = h("figure", {}, h("figcaption", { dir: "auto" }, h("b", {}, options.title), h("span", {}, options.subtitle || options.unit)), box,
    names.length > 1 || options.named ? legend(names) : null,
    numbers(head.concat(series.map(function (one) { return one.name; })), function () {
      return xs.map(function (x) {
        return [short(x)].concat(series.map(function (one) {
          var p = one.points.find(function (q) { return q[0] === x; });
          return p ? read(p[1]) + (isNumber(p[2]) ? " (" + read(p[2]) + " to " + read(p[3]) + ")" : "") : "";
        }));
      });
    }));
  onWidth(box, function (width) { drawLines(clear(box), width, options, names, xs, label, range, read); });
  return figure;
}

function extent(options) {
  var values = [];
  options.series.forEach(function (one) {
    one.points.forEach(function (p) { p.slice(1, 4).forEach(function (v) { if (isNumber(v)) { values.push(v); } }); });
    (one.dots || []).forEach(function (d) { values.push(d[1]); });
  });
  var low = Math.min.apply(null, values), high = Math.max.apply(null, values);
  // The first epochs of a training would press the others into a line, so that the lowest values may be cut off.
  if (options.focus && values.length > 12) {
    var sorted = values.slice().sort(function (a, b) { return a - b; });
    var bottom = sorted[Math.floor(sorted.length * 0.08)], top = sorted[Math.ceil(sorted.length * 0.92) - 1];
    if (high - low > 4 * (top - bottom) && top > bottom) {
      low = Math.max(low, bottom - 0.6 * (top - bottom));
      high = Math.min(high, top + 0.6 * (top - bottom));
    }
  }
  if (options.share) { low = Math.max(0, Math.min(low, 0.9)); high = Math.min(1, Math.max(high, low + 0.1)); }
  var pad = (high - low || Math.abs(high) || 1) * 0.06;
  return [options.share ? Math.max(0, low - pad) : low - pad, options.share ? Math.min(1, high + pad) : high + pad];
}

function drawLines(box, width, options, names, xs, label, range, read) {
  var height = options.height || 190, ys = ticks(range[0], range[1], 4);
  var left = 12 + 6.4 * Math.max.apply(null, tickLabels(ys).map(function (text) { return text.length; }));
  var frame = { left: left, right: width - 12, top: 8, bottom: height - 36 };
  var first = xs[0], last = xs[xs.length - 1], pad = (last - first) * 0.04 || 1;
  var x = scaleOf(first - pad, last + pad, frame.left, frame.right), y = scaleOf(range[0], range[1], frame.bottom, frame.top);
  var svg = s("svg", { viewBox: "0 0 " + width + " " + height, height: height, role: "img", tabindex: 0, "aria-label": label });
  var whole = ticks(first, last, Math.min(6, width / 60)).filter(function (v) { return Number.isInteger(v); });
  axes(svg, frame, x, y, first === last ? [first] : whole, ys, options.xTitle);
  function inside(v) { return Math.max(frame.top - 4, Math.min(frame.bottom + 4, y(v))); }
  options.series.forEach(function (one) {
    var number = names.indexOf(one.group || one.name), points = one.points;
    var ranged = points.filter(function (p) { return isNumber(p[2]) && isNumber(p[3]); });
    if (ranged.length > 1) {
      var outline = ranged.map(function (p) { return [x(p[0]), inside(p[3])]; }).concat(ranged.slice().reverse().map(function (p) { return [x(p[0]), inside(p[2])]; }));
      svg.appendChild(s("path", { d: path(outline) + "Z", style: { fill: color(number), "fill-opacity": 0.16 } }));
    }
    ranged.forEach(function (p) {
      svg.appendChild(s("line", { x1: x(p[0]), x2: x(p[0]), y1: inside(p[2]), y2: inside(p[3]), style: { stroke: color(number), "stroke-width": 1.4 } }));
    });
    (one.dots || []).forEach(function (d) {
      svg.appendChild(s("circle", { cx: x(d[0]), cy: inside(d[1]), r: 2, style: { fill: color(number), "fill-opacity": 0.45 } }));
    });
    var dash = one.group ? "" : DASHES[Math.floor(number / 2) % 4];
    svg.appendChild(s("path", { d: path(points.map(function (p) { return [x(p[0]), inside(p[1])]; })), fill: "none", style: { stroke: color(number), "stroke-width": 1.8, "stroke-dasharray": dash } }));
    if (points.length <= 60) { points.forEach(function (p) { svg.appendChild(marker(number, x(p[0]), inside(p[1]))); }); }
  });
  var cursor = s("line", { y1: frame.top, y2: frame.bottom, visibility: "hidden", style: { stroke: "var(--strong)" } });
  svg.appendChild(cursor);
  reading(svg, xs, x, width, cursor, function (at) {
    return [options.xTitle + " " + short(at)].concat(options.series.map(function (one) {
      var p = one.points.find(function (q) { return q[0] === at; });
      return p ? one.name + ": " + read(p[1]) + (isNumber(p[2]) ? " (" + read(p[2]) + " to " + read(p[3]) + ")" : "") : null;
    }).filter(Boolean).slice(0, 12));
  });
  box.appendChild(svg);
}

// The pointer and the arrow keys move a cursor over the values of x.
function reading(svg, xs, x, width, cursor, lines) {
  var index = -1;
  function go(next, clientX, clientY) {
    index = Math.max(0, Math.min(xs.length - 1, next));
    var place = x(xs[index]), box = svg.getBoundingClientRect(), text = lines(xs[index]);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    cursor.setAttribute("visibility", "visible");
    showTip(text, clientX === undefined ? box.left + place * box.width / width : clientX, clientY === undefined ? box.top + 20 : clientY);
    return text;
  }
  function leave() { hideTip(); cursor.setAttribute("visibility", "hidden"); }
  svg.addEventListener("pointermove", function (event) {
    var box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * width / box.width, best = 0;
    xs.forEach(function (value, i) { if (Math.abs(x(value) - at) < Math.abs(x(xs[best]) - at)) { best = i; } });
    go(best, event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", function (event) {
    var step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Escape") { leave(); }
    if (step) { event.preventDefault(); announce(go(index + step).join("; ")); }
  });
}
