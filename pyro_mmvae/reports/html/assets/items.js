// The items: a picker, what every subset of the modalities says about the chosen item, and how far its experts disagree.
var items = DATA.items, selected = 0, selection = [];

function select(number) {
  selected = number;
  selection.forEach(function (listener) { listener(number); });
}

// Sprites share one picture per modality; the cell of an item has its observation first.
function sprite(modality, item, subset, zoom, label) {
  var number = item * modality.perItem + subset + 1, column = number % modality.columns, row = Math.floor(number / modality.columns);
  var node = h("span", { class: "sprite", role: label ? "img" : null, "aria-label": label, style: {
    width: modality.width * zoom + "px", height: modality.height * zoom + "px",
    "background-size": modality.cell[0] * modality.columns * zoom + "px " + modality.cell[1] * modality.rows * zoom + "px",
    "background-position": -column * modality.cell[0] * zoom + "px " + -row * modality.cell[1] * zoom + "px"
  } });
  node.style.backgroundImage = "url(" + modality.sheet + ")";
  return node;
}

function valueOf(modality, item, subset) { return subset < 0 ? modality.observed[item] : modality.generated[subset][item]; }

function bars(modality, item, subset, width, height) {
  var values = valueOf(modality, item, subset), truth = items.present[item][items.modalities.indexOf(modality)] ? modality.observed[item] : null;
  var step = width / values.length, middle = height / 2, svg = s("svg", { viewBox: "0 0 " + width + " " + height, "aria-hidden": "true" });
  svg.appendChild(s("line", { class: "axis", x1: 0, x2: width, y1: middle, y2: middle }));
  values.forEach(function (value, i) {
    if (!isNumber(value)) { return; }
    var length = Math.min(1, Math.abs(value) / modality.scales[i]) * (middle - 1);
    svg.appendChild(s("rect", { x: i * step + step * 0.12, width: step * 0.76, y: value > 0 ? middle - length : middle, height: Math.max(length, 0.6), style: { fill: color(0) } }));
    if (subset >= 0 && truth && isNumber(truth[i])) {
      var mark = middle - Math.max(-1, Math.min(1, truth[i] / modality.scales[i])) * (middle - 1);
      svg.appendChild(s("line", { x1: i * step, x2: (i + 1) * step, y1: mark, y2: mark, style: { stroke: color(1), "stroke-width": 1.6 } }));
    }
  });
  return svg;
}

function describe(modality, item, subset) {
  var what = subset < 0 ? "observed" : "given " + namesOf(items.subsets[subset]);
  if (modality.kind === "text") { return modality.name + ", " + what + ": " + valueOf(modality, item, subset); }
  if (modality.kind === "numbers") { return modality.name + ", " + what + ": " + valueOf(modality, item, subset).slice(0, 6).map(short).join(", "); }
  return modality.name + ", " + what;
}

function shown(modality, item, subset, zoom) {
  if (modality.kind === "image") { return sprite(modality, item, subset, zoom); }
  if (modality.kind === "text") { return h("span", { class: "phrase", dir: "auto" }, valueOf(modality, item, subset) || "(empty)"); }
  return bars(modality, item, subset, 96, 40);
}

function titleOf(item) { return items.labels && items.labels[item] ? items.labels[item] : items.ids[item]; }

function picker() {
  var image = items.modalities.findIndex(function (modality) { return modality.kind === "image"; });
  var options = items.ids.map(function (id, item) {
    var has = image >= 0 && items.present[item][image];
    var label = "Item " + id + (items.labels && items.labels[item] ? ", label " + items.labels[item] : "");
    return h("div", { role: "option", id: "item-" + item, "aria-selected": item === 0, "aria-label": label, title: label, class: has ? null : "words", click: function () { select(item); list.focus(); } },
      has ? sprite(items.modalities[image], item, -1, 40 / Math.max(items.modalities[image].width, items.modalities[image].height)) : null,
      h("span", { dir: "auto" }, titleOf(item)), has ? null : h("span", { dir: "auto" }, items.labels ? id : ""));
  });
  var list = h("div", { class: "picker", role: "listbox", tabindex: 0, "aria-label": "Items", "aria-activedescendant": "item-0", keydown: function (event) {
    var across = Math.max(1, options.findIndex(function (node) { return node.offsetTop > options[0].offsetTop; }));
    var step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -1e9, End: 1e9, PageDown: 3 * across, PageUp: -3 * across }[event.key];
    if (step) { event.preventDefault(); select(Math.max(0, Math.min(options.length - 1, selected + step))); }
  } }, options);
  selection.push(function (item) {
    options.forEach(function (node, index) { node.setAttribute("aria-selected", index === item ? "true" : "false"); });
    list.setAttribute("aria-activedescendant", "item-" + item);
    var node = options[item];
    if (node.offsetTop < list.scrollTop) { list.scrollTop = node.offsetTop - 6; }
    else if (node.offsetTop + node.offsetHeight > list.scrollTop + list.clientHeight) { list.scrollTop = node.offsetTop + node.offsetHeight - list.clientHeight + 6; }
  });
  return list;
}

// Few items whose experts are far apart would leave all others pale.
var farDistance = 1e-9;
if (items) {
  var all = items.distances.flat(2).filter(function (v) { return isNumber(v) && v > 0; }).sort(function (a, b) { return a - b; });
  farDistance = all.length ? all[Math.floor(all.length * 0.97)] : 1e-9;
}

function side(item) {
  var count = DATA.names.length, matrix = items.distances[item], expected = items.expected[item], pairs = [];
  for (var a = 0; a < count; a += 1) { for (var b = a + 1; b < count; b += 1) { if (isNumber(matrix[a][b])) { pairs.push([matrix[a][b], a, b]); } } }
  var largest = farDistance;
  var mean = pairs.length ? pairs.reduce(function (sum, pair) { return sum + pair[0]; }, 0) / pairs.length : NaN;
  pairs.sort(function (p, q) { return q[0] - p[0]; });
  var top = pairs[0], times = top ? top[0] / expected[top[1]][top[2]] : NaN;
  return [
    h("h3", { dir: "auto" }, "Item " + items.ids[item]),
    items.labels ? h("p", { dir: "auto" }, "Label: ", h("b", {}, items.labels[item] || "none")) : null,
    pairs.length ? [
      h("p", {}, "Its experts are ", h("b", {}, short(mean)), " apart on average (W₂ distance)."),
      count <= 10 ? h("table", { class: "heat" }, h("caption", { class: "unseen" }, "W₂ distance between the experts of the item"),
        h("thead", {}, h("tr", {}, h("td", {}), DATA.names.map(function (name) { return h("th", { scope: "col", dir: "auto", title: name }, name); }))),
        h("tbody", {}, DATA.names.map(function (name, row) {
          return h("tr", {}, h("th", { scope: "row", dir: "auto", title: name }, name), DATA.names.map(function (other, column) {
            if (row === column) { return h("td", {}); }
            return isNumber(matrix[row][column]) ? heatCell(matrix[row][column], 0, largest, false, {}, matrix[row][column] < 0.1 ? matrix[row][column].toFixed(2) : short(+matrix[row][column].toPrecision(2))) : h("td", { class: "none" }, "–");
          }));
        }))) : null,
      h("p", { dir: "auto" }, "Farthest apart: ", bdi(DATA.names[top[1]]), " and ", bdi(DATA.names[top[2]]), ", " + short(times) + " times the distance that their scales let expect" + (times > 3 ? ": they contradict each other." : "."))
    ] : h("p", {}, "Fewer than two modalities were observed, so that no experts can disagree."),
    items.notes.map(function (note) { return h("p", { class: "absent" }, note); })
  ];
}

function enlarge(modality, item, subset) {
  var dialog = document.getElementById("zoom"), kind = modality.kind, zoom = Math.max(1, Math.floor(200 / Math.max(modality.width || 200, modality.height || 200)));
  var has = items.present[item][items.modalities.indexOf(modality)];
  clear(dialog);
  dialog.appendChild(h("h3", { id: "zoom-title", dir: "auto" }, modality.name + (subset < 0 ? ", observed" : " given " + namesOf(items.subsets[subset]))));
  if (kind === "numbers") {
    dialog.appendChild(dataTable(["feature", "observed"].concat(subset < 0 ? [] : ["generated"]), modality.features.map(function (name, i) {
      return [bdi(name), has ? short(modality.observed[item][i]) : "–"].concat(subset < 0 ? [] : [short(modality.generated[subset][item][i])]);
    })));
    dialog.appendChild(h("p", { class: "absent" }, (modality.unit ? "In " + modality.unit + ". " : "") + (modality.numFeatures > modality.features.length ? "The " + modality.features.length + " of " + modality.numFeatures + " features that vary most." : "")));
  } else {
    dialog.appendChild(h("div", { class: "pair" }, [[-1, "observed"]].concat(subset < 0 ? [] : [[subset, "generated"]]).map(function (one) {
      return h("div", {}, one[0] < 0 && !has ? h("p", {}, "not observed") : kind === "image" ? sprite(modality, item, one[0], zoom, describe(modality, item, one[0])) : h("p", { class: "phrase", dir: "auto" }, valueOf(modality, item, one[0]) || "(empty)"), one[1]);
    })));
    if (kind === "image" && modality.size[0] > modality.height) { dialog.appendChild(h("p", { class: "absent" }, "Reduced from " + modality.size[1] + " × " + modality.size[0] + " pixels.")); }
  }
  dialog.appendChild(h("button", { type: "button", class: "quiet", click: function () { dialog.close(); } }, "Close"));
  dialog.showModal();
}

function drawItems(root) {
  var count = DATA.names.length, sizes = unique(items.subsets.map(function (subset) { return subset.length; })), size = 0;
  var place = h("div", { class: "scroll" }), panel = h("aside", { class: "side", "aria-label": "Disagreement of the experts" });
  function row(item, subset) {
    var given = subset < 0 ? [] : items.subsets[subset], absent = given.filter(function (m) { return !items.present[item][m]; });
    var spread = subset < 0 ? "" : "posterior spread " + short(items.spread[item][subset]);
    return h("tr", { class: subset < 0 ? "truth" : absent.length ? "unseen-row" : null },
      h("th", { scope: "row", title: subset < 0 ? null : namesOf(given) + ", " + spread }, subset < 0 ? "observed" : [count <= 8 ? dots(given, count) : short(given.length) + " given", h("span", { class: "unseen" }, "given " + namesOf(given) + ", " + spread)]),
      items.modalities.map(function (modality, m) {
        if (subset < 0 && !items.present[item][m]) { return h("td", { class: "absent" }, "absent"); }
        if (absent.length) { return h("td", { class: "absent" }, m ? "" : "needs " + absent.map(function (k) { return DATA.names[k]; }).join(", ")); }
        var zoom = Math.min(6, 48 / Math.max(modality.width || 48, modality.height || 48));
        return h("td", {}, h("button", { type: "button", class: "cell" + (given.indexOf(m) >= 0 ? " given" : ""), "aria-label": describe(modality, item, subset), click: function () { enlarge(modality, item, subset); } }, shown(modality, item, subset, zoom)));
      }));
  }
  function draw(item) {
    var kept = items.subsets.map(function (subset, index) { return index; }).filter(function (index) { return !size || items.subsets[index].length === size; });
    clear(place).appendChild(h("table", { class: "says" }, h("caption", { class: "unseen" }, "What each subset says about item " + items.ids[item]),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, count <= 8 ? "given" : ""), DATA.names.map(function (name) { return h("th", { scope: "col", dir: "auto" }, name); }))),
      h("tbody", {}, row(item, -1), kept.map(function (subset) { return row(item, subset); }))));
    clear(panel);
    build(panel, {}, [side(item)]);
  }
  var order = DATA.names.map(function (name, m) { return [m ? ", " : "", bdi(name)]; });
  var legendText = [count <= 8 ? ["Dots: ", order, ", in this order. "] : "", "A tinted cell was given itself. ", items.modalities.some(function (m) { return m.kind === "numbers"; }) ? "Bars are values, orange lines the observation." : ""];
  build(root, {}, [picker(), h("div", { class: "item" },
    h("div", {}, h("div", { class: "controls" }, pills("subsets of size", [[0, "all"]].concat(sizes.map(function (k) { return [k, String(k)]; })), 0, function (k) { size = k; draw(selected); })),
      h("p", { class: "hint" }, legendText), place),
    panel)]);
  selection.push(draw);
  selection.push(function (item) { announce("Item " + items.ids[item] + (items.labels ? ", label " + items.labels[item] : "")); });
  draw(0);
}
