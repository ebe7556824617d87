// Several runs: figures with intervals over seeds, and differences from a baseline.
function drawCompared(root, figures) {
  figures.filter(function (figure) { return figure.main; }).forEach(function (figure) {
    var series = figure.series.filter(function (one) { return one.points.length; });
    var views = unique([].concat.apply([], series.map(function (one) { return one.points.map(function (p) { return p[0]; }); })));
    root.appendChild(views.length > 1 ? lineFigure({
      title: words(figure.metric), subtitle: figure.protocol + "; " + figure.unit, unit: figure.unit, xTitle: "modalities given", series: series, named: true, height: 240
    }) : dotFigure(words(figure.metric), figure.protocol + "; " + figure.unit, series.map(function (one, number) {
      return { label: one.name, number: number, mean: one.points[0][1], low: one.points[0][2], high: one.points[0][3], filled: true };
    }), false));
  });
}

function drawDifferences(root, compared) {
  compared.figures.filter(function (figure) { return figure.main && figure.differences.length; }).forEach(function (figure) {
    var several = unique(figure.differences.map(function (d) { return d.views; })).length > 1;
    var rows = figure.differences.slice().sort(function (a, b) { return compared.labels.indexOf(a.label) - compared.labels.indexOf(b.label) || a.views - b.views; }).map(function (d) {
      return { label: d.label + (several ? ", " + d.views + " given" : ""), number: compared.labels.indexOf(d.label), mean: d.points[0], low: d.points[1], high: d.points[2], filled: d.significant,
        note: d.pairs + (d.pairs === 1 ? " pair of seeds" : " pairs of seeds") + (isNumber(d.p) ? ", corrected p = " + short(d.p) : ", no test") };
    });
    root.appendChild(dotFigure(words(figure.metric), figure.protocol + "; row minus " + compared.baseline, rows, true));
  });
}

function dotFigure(title, subtitle, rows, zero) {
  var box = h("div", {}), values = zero ? [0] : [];
  rows.forEach(function (row) { [row.mean, row.low, row.high].forEach(function (v) { if (isNumber(v)) { values.push(v); } }); });
  var low = Math.min.apply(null, values), high = Math.max.apply(null, values), read = readerOf(low, high);
  var label = title + ", " + subtitle + ". " + rows.map(function (row) { return row.label + ": " + read(row.mean); }).join("; ");
  onWidth(box, function (width) {
    // Labels that are too long for the left side stand above their dots.
    var letters = 14 + 6.3 * Math.max.apply(null, rows.map(function (row) { return row.label.length; })), above = letters > width * 0.42;
    var step = above ? 42 : 26, left = above ? 14 : letters, height = rows.length * step + 42;
    var pad = (high - low || Math.abs(high) || 1) * 0.08;
    var x = scaleOf(low - pad, high + pad, left, width - 12), svg = s("svg", { viewBox: "0 0 " + width + " " + height, height: height, role: "img", "aria-label": label });
    var places = ticks(low - pad, high + pad, Math.max(2, (width - left) / 90)), labels = tickLabels(places);
    places.forEach(function (v, i) {
      svg.appendChild(s("line", { class: "axis", x1: x(v), x2: x(v), y1: 4, y2: height - 32 }));
      svg.appendChild(s("text", { x: x(v), y: height - 16, "text-anchor": "middle" }, labels[i]));
    });
    if (zero) { svg.appendChild(s("line", { x1: x(0), x2: x(0), y1: 4, y2: height - 32, style: { stroke: "var(--ink)", "stroke-dasharray": "4 3" } })); }
    rows.forEach(function (row, index) {
      var y = index * step + (above ? 32 : 18), most = Math.max(3, Math.floor(((above ? width : left) - 12) / 6.2));
      svg.appendChild(s("text", { x: above ? left : left - 9, y: above ? y - 13 : y + 4, "text-anchor": above ? "start" : "end", style: { fill: "var(--ink)" } }, row.label.length > most ? row.label.slice(0, most - 1) + "…" : row.label));
      if (isNumber(row.low)) { svg.appendChild(s("line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y, style: { stroke: color(row.number), "stroke-width": 2 } })); }
      var dot = marker(row.number, x(row.mean), y, row.filled), lines = [row.label, read(row.mean) + (isNumber(row.low) ? " (" + read(row.low) + " to " + read(row.high) + ")" : ""), row.note].filter(Boolean);
      dot.addEventListener("pointerenter", function (event) { showTip(lines, event.clientX, event.clientY); });
      dot.addEventListener("pointerleave", hideTip);
      svg.appendChild(dot);
    });
    clear(box).appendChild(svg);
  });
  return h("figure", {}, h("figcaption", { dir: "auto" }, h("b", {}, title), h("span", {}, subtitle)), box,
    numbers(["", "mean", "95 % interval", ""], function () { return rows.map(function (row) { return [bdi(row.label), read(row.mean), isNumber(row.low) ? read(row.low) + " to " + read(row.high) : "–", row.note || ""]; }); }));
}
