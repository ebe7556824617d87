// Elements are made by these functions alone, and all text becomes a text node: no name or label is parsed as markup.
var DATA = JSON.parse(document.getElementById("data").textContent);
var SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, children) {
  Object.keys(attributes || {}).forEach(function (key) {
    var value = attributes[key];
    if (value === null || value === undefined || value === false) { return; }
    if (typeof value === "function") { node.addEventListener(key, value); }
    else if (key === "style") { Object.keys(value).forEach(function (name) { node.style.setProperty(name, value[name]); }); }
    else { node.setAttribute(key, value === true ? "" : String(value)); }
  });
  children.flat(Infinity).forEach(function (child) {
    if (child === null || child === undefined || child === false) { return; }
    node.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
  });
  return node;
}

function h(tag, attributes) { return build(document.createElement(tag), attributes, [].slice.call(arguments, 2)); }
function s(tag, attributes) { return build(document.createElementNS(SVG, tag), attributes, [].slice.call(arguments, 2)); }
function clear(node) { while (node.firstChild) { node.removeChild(node.firstChild); } return node; }
function view(name) { return document.querySelector('[data-view="' + name + '"]'); }
function announce(text) { document.getElementById("live").textContent = text; }
function color(number) { return "var(--c" + (number % 8) + ")"; }
function bdi(text) { return h("bdi", {}, text); }

function computed(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// A tooltip follows the pointer or a focused point; readers of the screen hear its text from the live region.
var tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
document.body.appendChild(tip);

function showTip(lines, x, y) {
  clear(tip);
  lines.forEach(function (line) { tip.appendChild(h("div", { dir: "auto" }, line)); });
  tip.hidden = false;
  var box = tip.getBoundingClientRect();
  var left = x + 14 + box.width > window.innerWidth - 6 ? x - box.width - 14 : x + 14;
  tip.style.left = Math.max(6, left) + "px";
  tip.style.top = Math.max(6, Math.min(y + 14, window.innerHeight - box.height - 6)) + "px";
}
function hideTip() { tip.hidden = true; }
window.addEventListener("scroll", hideTip, { passive: true });

function control(label, options, value, change) {
  var select = h("select", { change: function () { change(select.value); } });
  options.forEach(function (option) { select.appendChild(h("option", { value: option[0], selected: option[0] === value }, option[1])); });
  return h("label", { class: "control" }, label, select);
}

var groups = 0;
function pills(label, options, value, change) {
  var name = "choice" + (groups += 1);
  return h("fieldset", { class: "pills" }, h("legend", {}, label), options.map(function (option, number) {
    var id = name + "-" + number;
    return [
      h("input", { type: "radio", name: name, id: id, value: option[0], checked: option[0] === value, change: function () { change(option[0]); } }),
      h("label", { for: id }, option[1])
    ];
  }));
}

// A drawing is made when its place has a width, and again when the width changes.
function onWidth(node, draw) {
  var width = 0;
  new ResizeObserver(function () {
    var now = Math.round(node.clientWidth);
    if (now && now !== width) { width = now; draw(now); }
  }).observe(node);
}

function dataTable(head, rows) {
  return h("table", { class: "data" },
    h("thead", {}, h("tr", {}, head.map(function (text) { return h("th", { scope: "col" }, text); }))),
    h("tbody", {}, rows.map(function (row) {
      return h("tr", {}, row.map(function (cell, index) { return h(index ? "td" : "th", index ? {} : { scope: "row" }, cell); }));
    })));
}

function numbers(head, rows) {
  var node = h("details", { class: "numbers" }, h("summary", {}, "Numbers"));
  node.addEventListener("toggle", function () {
    if (node.open && node.children.length === 1) {
      node.appendChild(h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers of the figure" }, dataTable(head, rows())));
    }
  });
  return node;
}
