// The map of latents on a canvas: coloured by label, by disagreement of the experts, or by what was given.
function drawMap(root) {
  var map = DATA.map, count = map.ids.length, whole = map.subsets.length - 1, given = whole, mode = map.codes ? "label" : "plain", hovered = -1, width = 600, height = 440;
  var canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": "Map of " + count + " items in two principal components of the latent, which explain " + map.explained.map(function (e) { return (100 * e).toFixed(0) + " %"; }).join(" and ") + " of the variance. Arrow keys step through the items." });
  var key = h("div", {}), has = map.disagreement.some(isNumber), singles = map.subsets.map(function (subset, k) { return subset.length === 1 ? k : -1; }).filter(function (k) { return k >= 0; });
  var modes = [];
  if (map.codes) { modes.push(["label", map.title || "label"]); }
  if (has) { modes.push(["disagreement", "disagreement"]); }
  if (singles.length && map.subsets.length > 1) { modes.push(["given", "what was given"]); }
  if (!modes.length) { modes.push(["plain", "one colour"]); }
  mode = modes[0][0];
  var finite = map.disagreement.filter(isNumber), low = Math.min.apply(null, finite), high = Math.max.apply(null, finite);

  function at(subset, item) { return [14 + map.points[subset][2 * item] / 999 * (width - 28), height - 14 - map.points[subset][2 * item + 1] / 999 * (height - 28)]; }
  function layers() { return mode === "given" ? singles.concat([whole]) : [given]; }
  function name(subset) { return map.subsets[subset].length === DATA.names.length ? "all modalities" : namesOf(map.subsets[subset]); }
  // The colour of a class is the number of one of the page or, of very many classes, one of a continuous map.
  function classColor(code) {
    if (code < 0) { return computed("--strong"); }
    var own = map.styles[code][0];
    if (isNumber(own)) { return computed("--c" + own); }
    return document.documentElement.dataset.theme === "dark" ? mixed(own, "#ffffff", 0.35) : own;
  }
  function classShape(code) { return code < 0 ? 0 : map.styles[code][1]; }
  function parsed(hex) { return hex.match(/\w\w/g).map(function (x) { return parseInt(x, 16); }); }
  function mixed(first, second, share) {
    var to = parsed(second);
    return "rgb(" + parsed(first).map(function (v, i) { return Math.round(v + (to[i] - v) * share); }).join(",") + ")";
  }
  function colors() {
    if (mode === "label") { var table = map.classes.map(function (c, i) { return classColor(i); }), none = classColor(-1); return function (layer, item) { return map.codes[item] < 0 ? none : table[map.codes[item]]; }; }
    if (mode === "disagreement") { var grey = computed("--strong"), near = computed("--c0"), far = computed("--c1"); return function (layer, item) { return isNumber(map.disagreement[item]) ? mixed(near, far, (map.disagreement[item] - low) / (high - low || 1)) : grey; }; }
    if (mode === "given") { var list = layers().map(function (l, i) { return computed(i < layers().length - 1 ? "--c" + i % 6 : "--c6"); }); return function (layer) { return list[layer]; }; }
    var plain = computed("--c0"); return function () { return plain; };
  }
  var outlines = SHAPES.map(function (text) { return new Path2D(text); });
  function draw() {
    var ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d"), of = colors(), drawn = layers();
    canvas.width = width * ratio; canvas.height = height * ratio; canvas.style.height = height + "px";
    context.scale(ratio, ratio);
    context.globalAlpha = count > 600 || drawn.length > 1 ? 0.7 : 0.85;
    drawn.forEach(function (subset, layer) {
      for (var i = 0; i < count; i += 1) {
        if (map.seen[subset][i] !== "1") { continue; }
        var p = at(subset, i);
        context.fillStyle = of(layer, i);
        context.setTransform(1.2 * ratio, 0, 0, 1.2 * ratio, p[0] * ratio, p[1] * ratio);
        context.fill(outlines[mode === "label" ? classShape(map.codes[i]) : mode === "given" ? layer % outlines.length : 0]);
      }
    });
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.globalAlpha = 1;
    [[items ? selected : -1, "--ink", 2.4], [hovered, "--accent", 3]].forEach(function (ring) {
      if (ring[0] < 0) { return; }
      drawn.forEach(function (subset) {
        if (map.seen[subset][ring[0]] !== "1") { return; }
        var p = at(subset, ring[0]);
        context.beginPath(); context.arc(p[0], p[1], 7.5, 0, 7); context.lineWidth = ring[2]; context.strokeStyle = computed(ring[1]); context.stroke();
      });
    });
  }
  function text(item) {
    return ["Item " + map.ids[item], map.codes ? (map.title || "label") + ": " + (map.codes[item] < 0 ? "none" : map.classes[map.codes[item]]) : null,
      isNumber(map.disagreement[item]) ? "experts " + short(map.disagreement[item]) + " apart (W₂)" : null,
      items && item < items.ids.length ? "click to choose it above" : null].filter(Boolean);
  }
  function hover(item, x, y) {
    hovered = item;
    draw();
    if (item < 0) { hideTip(); canvas.style.cursor = "crosshair"; return; }
    canvas.style.cursor = items && item < items.ids.length ? "pointer" : "crosshair";
    var box = canvas.getBoundingClientRect(), p = at(layers()[0], item);
    showTip(text(item), x === undefined ? box.left + p[0] : x, y === undefined ? box.top + p[1] : y);
  }
  function nearest(event) {
    var box = canvas.getBoundingClientRect(), best = -1, least = 196;
    layers().forEach(function (subset) {
      for (var i = 0; i < count; i += 1) {
        if (map.seen[subset][i] !== "1") { continue; }
        var p = at(subset, i), d = Math.pow(p[0] - event.clientX + box.left, 2) + Math.pow(p[1] - event.clientY + box.top, 2);
        if (d < least) { least = d; best = i; }
      }
    });
    return best;
  }
  function choose(item) { if (items && item >= 0 && item < items.ids.length) { select(item); announce("Item " + items.ids[item] + " chosen"); } }
  canvas.addEventListener("pointermove", function (event) { var item = nearest(event); if (item !== hovered) { hover(item, event.clientX, event.clientY); } });
  canvas.addEventListener("pointerleave", function () { hover(-1); });
  canvas.addEventListener("blur", function () { hover(-1); });
  canvas.addEventListener("click", function (event) { var item = nearest(event); hover(item, event.clientX, event.clientY); choose(item); });
  canvas.addEventListener("keydown", function (event) {
    var step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (step) { event.preventDefault(); var item = Math.max(0, Math.min(count - 1, (hovered < 0 ? -1 : hovered) + step)); hover(item); announce(text(item).join("; ")); }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(hovered); }
    if (event.key === "Escape") { hover(-1); }
  });
  function legendOf() {
    clear(key);
    if (mode === "disagreement") {
      key.appendChild(h("p", { class: "scale" }, short(low), h("i", { "aria-hidden": "true", style: { background: "linear-gradient(90deg, var(--c0), var(--c1))" } }), short(high)));
      key.appendChild(h("p", { class: "absent" }, "Mean W₂ distance between the experts of an item."));
      return;
    }
    var entries = mode === "given" ? layers().map(function (subset, i) { return [name(subset), computed(i < layers().length - 1 ? "--c" + i % 6 : "--c6"), i % SHAPES.length]; }) : mode === "label" ? map.classes.map(function (label, i) { return [label, classColor(i), classShape(i)]; }) : [];
    key.appendChild(h("ul", { class: "legend" }, entries.slice(0, 80).map(function (entry) {
      return h("li", {}, s("svg", { viewBox: "0 0 24 12", "aria-hidden": "true" }, s("path", { d: SHAPES[entry[2]], transform: "translate(12,6)", style: { fill: entry[1] } })), bdi(entry[0]));
    })));
    if (entries.length > 80) { key.appendChild(h("p", { class: "absent" }, entries.length - 80 + " more")); }
    if (mode === "given") { key.appendChild(h("p", { class: "absent" }, "Every item appears once per modality and once given all. Clouds that lie apart mean modalities that encode into different places.")); }
  }
  var where = h("div", {});
  function pickers() {
    clear(where);
    if (mode !== "given" && map.subsets.length > 1) {
      where.appendChild(control("posterior given", map.subsets.map(function (subset, k) { return [String(k), name(k)]; }).reverse(), String(given), function (value) { given = Number(value); draw(); }));
    }
  }
  root.appendChild(h("div", { class: "controls" }, pills("colour by", modes, mode, function (value) { mode = value; pickers(); legendOf(); draw(); }), where));
  var box = h("div", {}, canvas, h("p", { class: "absent" }, "Principal components 1 (" + (100 * map.explained[0]).toFixed(0) + " % of the variance) and 2 (" + (100 * map.explained[1]).toFixed(0) + " %), at equal scale; " + count + " items" + (items ? ". The circle is the item chosen above." : ".")));
  root.appendChild(h("div", { class: "mapbox" }, box, key));
  pickers();
  legendOf();
  selection.push(draw);
  document.addEventListener("themechange", function () { legendOf(); draw(); });
  onWidth(box, function (now) { width = now; height = Math.round(Math.max(300, Math.min(560, now * 0.72))); draw(); });
}
