// The figures of a run: training, metrics by number of modalities given, cross-generation, checks and k-hat.
function drawTraining(root, panels, xTitle) {
  panels.forEach(function (panel) {
    root.appendChild(lineFigure({
      title: panel.title, subtitle: panel.subtitle, unit: panel.unit,
      xTitle: xTitle, series: panel.series, focus: true, height: 180
    }));
  });
}

function words(text) { return text === "ess" ? "effective sample size" : text.replace(/_/g, " "); }

function ofTarget(target) { return target === "given" ? " of the modalities given" : target === "all" ? " of all modalities" : target ? " of " + target : ""; }

function drawViews(root, panels) {
  panels.forEach(function (panel) {
    var title = words(panel.metric) + ofTarget(panel.target), single = panel.series.every(function (one) { return one.points.length === 1; });
    root.appendChild(single ? dotFigure(title, panel.unit, panel.series.map(function (one, number) {
      var p = one.points[0];
      return { label: one.name, number: number, mean: p[1], low: p[2], high: p[3], filled: true };
    }), false) : lineFigure({
      title: title, subtitle: panel.unit, unit: panel.unit,
      xTitle: "modalities given", series: panel.series, share: panel.share, named: true, height: 230
    }));
  });
}

function unique(values) { return values.filter(function (value, index) { return values.indexOf(value) === index; }); }

function heatCell(value, low, high, reversed, attributes, text) {
  var share = high > low ? (value - low) / (high - low) : 0.5;
  if (reversed) { share = 1 - share; }
  var cell = h("td", attributes || {}, text === undefined ? short(value) : text);
  cell.heatShare = Math.max(0, Math.min(1, share));
  paint(cell);
  return cell;
}

// The letters of a cell are white where that has a contrast of 4.5 with its colour, else black, which then has more.
function paint(cell) {
  var from = computed("--heat-base").split(",").map(Number), to = computed("--heat").split(",").map(Number);
  var mixed = from.map(function (v, i) { return Math.round(v + (to[i] - v) * cell.heatShare); });
  var light = mixed.map(function (v) { v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
  var luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
  cell.style.background = "rgb(" + mixed.join(",") + ")";
  cell.style.color = 1.05 / (luminance + 0.05) >= 4.5 ? "#fff" : "#000";
  cell.classList.add("painted");
}
function repaint() { document.querySelectorAll(".painted").forEach(paint); }

function dots(subset, count) {
  var nodes = [];
  for (var m = 0; m < count; m += 1) { nodes.push(h("i", { class: subset.indexOf(m) >= 0 ? "on" : null, "aria-hidden": "true" })); }
  return h("span", { class: "dots" }, nodes);
}
function namesOf(subset) { return subset.map(function (m) { return DATA.names[m]; }).join(" + "); }

function drawMatrix(root, metrics) {
  var chosen = 0, size = null, place = h("div", {}), sizes = h("div", {});
  function sizesOf(metric) { return unique(metric.cells.map(function (cell) { return cell[0].length; })).sort(function (a, b) { return a - b; }); }
  function table() {
    var metric = metrics[chosen], cells = metric.cells.filter(function (cell) { return cell[0].length === size; });
    var values = metric.cells.map(function (cell) { return cell[2]; });
    var low = metric.share ? 0 : Math.min.apply(null, values), high = metric.share ? 1 : Math.max.apply(null, values);
    var subsets = unique(cells.map(function (cell) { return cell[0].join(","); })), found = {};
    cells.forEach(function (cell) { found[cell[0].join(",") + "|" + cell[1]] = cell; });
    var targets = DATA.names.map(function (name, m) { return m; }).filter(function (m) { return cells.some(function (cell) { return cell[1] === m; }); });
    clear(place);
    place.appendChild(h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Cross-generation given " + size }, h("table", { class: "heat" },
      h("caption", { class: "unseen" }, words(metric.metric) + " of each modality (columns) generated from each subset (rows)"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "given"), targets.map(function (m) { return h("th", { scope: "col", dir: "auto" }, DATA.names[m]); }))),
      h("tbody", {}, subsets.map(function (key) {
        var subset = key.split(",").map(Number);
        return h("tr", {}, h("th", { scope: "row", dir: "auto" }, DATA.names.length <= 8 ? [dots(subset, DATA.names.length), " "] : null, namesOf(subset)), targets.map(function (m) {
          var cell = found[key + "|" + m];
          return cell ? heatCell(cell[2], low, high, metric.better === "lower", { title: cell[3] + " items" }) : h("td", { class: "none" }, "·");
        }));
      })))));
    place.appendChild(h("p", { class: "scale" }, h("span", {}, short(metric.better === "lower" ? high : low)), h("i", { "aria-hidden": "true" }), h("span", {}, short(metric.better === "lower" ? low : high)),
      h("span", {}, words(metric.metric) + ", " + metric.unit + (metric.better ? " (" + metric.better + " is better)" : ""))));
  }
  function choose(index) {
    chosen = index;
    var found = sizesOf(metrics[index]);
    if (found.indexOf(size) < 0) { size = found[0]; }
    clear(sizes).appendChild(pills("modalities given", found.map(function (k) { return [k, String(k)]; }), size, function (k) { size = k; table(); }));
    table();
  }
  root.appendChild(h("div", { class: "controls" }, control("metric", metrics.map(function (metric, index) { return [String(index), words(metric.metric) + " · " + metric.protocol]; }), "0", function (value) { choose(Number(value)); }), sizes));
  root.appendChild(place);
  choose(0);
}

function drawChecks(root, checks) {
  var chosen = 0, modality = "", place = h("div", {}), picker = h("div", {});
  var first = Math.max(0, checks.findIndex(function (check) { return check.given && check.judged; }));
  function draw() {
    var check = checks[chosen];
    clear(place);
    place.appendChild(h("p", { class: "hint" }, check.about + ". " + (check.judged ? check.miscalibrated + " of " + check.judged + " judged statistics are miscalibrated (p < 0.01)." : "No statistic is judged, since all modalities were given.") + (check.left ? " " + check.left + " further statistics are left out." : "")));
    place.appendChild(h("div", { class: "panels" }, check.panels.filter(function (panel) { return !modality || panel.modality === modality; }).map(ecdfFigure)));
    place.appendChild(h("details", {}, h("summary", {}, "The check as a table"), h("pre", { tabindex: 0 }, check.table)));
  }
  function choose(index) {
    chosen = index;
    var found = unique(checks[index].panels.map(function (panel) { return panel.modality; }));
    if (found.indexOf(modality) < 0) { modality = found.length > 2 ? (checks[index].panels.find(function (panel) { return !panel.given; }) || checks[index].panels[0]).modality : ""; }
    clear(picker).appendChild(control("modality", [["", "all"]].concat(found.map(function (name) { return [name, name]; })), modality, function (value) { modality = value; draw(); }));
    draw();
  }
  root.appendChild(h("div", { class: "controls" }, control("given", checks.map(function (check, index) { return [String(index), check.given || "nothing (prior)"]; }), String(first), function (value) { choose(Number(value)); }), picker));
  root.appendChild(place);
  choose(first);
}

function ecdfFigure(panel) {
  var box = h("div", {}), bad = isNumber(panel.p) && panel.p < 0.01 && !panel.given;
  var verdict = panel.given ? "given to the guide: not judged" : !isNumber(panel.p) ? "not judged" : "PIT p = " + short(panel.p) + (bad ? ", miscalibrated" : "");
  var text = verdict + "; 90 % interval covers " + (isNumber(panel.coverage) ? (100 * panel.coverage).toFixed(0) + " %" : "–");
  onWidth(box, function (width) {
    var height = 150, values = [];
    clear(box);
    panel.points.forEach(function (p) { values.push(p[1], p[2], p[3]); });
    if (!values.length) { box.appendChild(h("p", { class: "absent" }, "no values")); return; }
    var bound = Math.max.apply(null, values.map(Math.abs)) * 1.08 || 1, ys = ticks(-bound, bound, 3);
    var frame = { left: 44, right: width - 8, top: 6, bottom: height - 34 };
    var x = scaleOf(0, 1, frame.left, frame.right), y = scaleOf(-bound, bound, frame.bottom, frame.top);
    var svg = s("svg", { viewBox: "0 0 " + width + " " + height, height: height, role: "img", "aria-label": panel.modality + " " + panel.statistic + ": " + text });
    axes(svg, frame, x, y, [0, 0.5, 1], ys, "PIT value");
    var ends = [[0, 0, 0, 0]].concat(panel.points, [[1, 0, 0, 0]]);
    var band = ends.map(function (p) { return [x(p[0]), y(p[3])]; }).concat(ends.slice().reverse().map(function (p) { return [x(p[0]), y(p[2])]; }));
    svg.appendChild(s("path", { d: path(band) + "Z", style: { fill: "var(--strong)", "fill-opacity": 0.3 } }));
    svg.appendChild(s("path", { d: path(ends.map(function (p) { return [x(p[0]), y(p[1])]; })), fill: "none", style: { stroke: panel.given ? "var(--muted)" : color(0), "stroke-width": 1.7 } }));
    panel.points.filter(function (p) { return p[1] < p[2] || p[1] > p[3]; }).forEach(function (p) {
      svg.appendChild(s("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.2, style: { fill: panel.given ? "var(--muted)" : color(1) } }));
    });
    box.appendChild(svg);
  });
  return h("figure", {}, h("figcaption", { dir: "auto" }, h("b", {}, panel.modality + (panel.statistic ? " · " + panel.statistic : "")), h("span", {}, text)), box);
}

function drawKhat(root, khat) {
  var box = h("div", {}), label = "PSIS k-hat by subset given, threshold " + short(khat.threshold) + ". ";
  function name(group) { return group.given.length > 3 ? group.given.length + " modalities" : group.given.join(" + "); }
  function median(values) { var sorted = values.slice().sort(function (a, b) { return a - b; }); return sorted.length ? sorted[Math.floor(sorted.length / 2)] : NaN; }
  function above(group) { return group.values.filter(function (v) { return v > khat.threshold; }).length + group.infinite; }
  var rows = khat.groups.map(function (group) {
    var count = group.values.length + group.infinite;
    return [bdi(group.given.join(" + ")), String(count), short(median(group.values)), (100 * above(group) / Math.max(count, 1)).toFixed(0) + " %"];
  });
  label += khat.groups.map(function (group) { return name(group) + ": median " + short(median(group.values)); }).join("; ");
  onWidth(box, function (width) {
    var rowHeight = 38, left = Math.min(150, width * 0.3), height = khat.groups.length * rowHeight + 46;
    function fold(v) { return Math.sign(v) * Math.log10(1 + Math.abs(v)); }
    var values = [].concat.apply([khat.threshold * 1.3, 0], khat.groups.map(function (group) { return group.values; }));
    var low = fold(Math.min.apply(null, values)), high = fold(Math.max.apply(null, values));
    var scale = scaleOf(low, high, left, width - 14), svg = s("svg", { viewBox: "0 0 " + width + " " + height, height: height, role: "img", "aria-label": label });
    [-1, 0, 0.5, 1, 2, 5, 10, 30, 100, 1000].forEach(function (v) {
      if (fold(v) >= low && fold(v) <= high) {
        svg.appendChild(s("line", { class: "axis", x1: scale(fold(v)), x2: scale(fold(v)), y1: 4, y2: height - 40 }));
        svg.appendChild(s("text", { x: scale(fold(v)), y: height - 24, "text-anchor": "middle" }, String(v)));
      }
    });
    svg.appendChild(s("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "PSIS k\u0302"));
    khat.groups.forEach(function (group, row) {
      var middle = row * rowHeight + 22;
      var text = name(group), most = Math.floor((left - 12) / 6.2);
      svg.appendChild(s("text", { x: left - 10, y: middle + 4, "text-anchor": "end", style: { fill: "var(--ink)" } }, text.length > most ? text.slice(0, most - 1) + "…" : text));
      group.values.forEach(function (v, i) {
        // Places are spread by the golden ratio, so that they look random and do not change.
        svg.appendChild(s("circle", { cx: scale(fold(v)), cy: middle + ((i * 0.618034) % 1 - 0.5) * 22, r: 2.6, style: { fill: v > khat.threshold ? color(1) : color(0), "fill-opacity": 0.6 } }));
      });
    });
    svg.appendChild(s("line", { x1: scale(fold(khat.threshold)), x2: scale(fold(khat.threshold)), y1: 4, y2: height - 40, style: { stroke: "var(--ink)", "stroke-dasharray": "5 4" } }));
    clear(box).appendChild(svg);
  });
  root.appendChild(h("figure", {}, box));
  root.appendChild(h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of k-hat" }, dataTable(["given", "items", "median k\u0302", "above " + short(khat.threshold)], rows)));
}
