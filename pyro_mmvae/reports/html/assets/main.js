// The theme follows the system until its button is used; a choice is kept where the browser allows it.
var dark = window.matchMedia("(prefers-color-scheme: dark)"), themes = ["system", "light", "dark"], theme = "system";
try { theme = themes.indexOf(localStorage.getItem("pyro-mmvae-theme")) > 0 ? localStorage.getItem("pyro-mmvae-theme") : "system"; } catch (error) { theme = "system"; }

function applyTheme() {
  var button = document.getElementById("theme");
  document.documentElement.dataset.theme = theme === "system" ? (dark.matches ? "dark" : "light") : theme;
  document.documentElement.style.colorScheme = document.documentElement.dataset.theme;
  button.textContent = "Colours: " + theme;
  button.setAttribute("aria-label", "Colours: " + theme + ". Change to " + themes[(themes.indexOf(theme) + 1) % 3]);
  repaint();
  document.dispatchEvent(new Event("themechange"));
}
document.getElementById("theme").addEventListener("click", function () {
  theme = themes[(themes.indexOf(theme) + 1) % 3];
  try { localStorage.setItem("pyro-mmvae-theme", theme); } catch (error) { /* The choice then lasts as long as the page. */ }
  applyTheme();
});
dark.addEventListener("change", applyTheme);
applyTheme();

var list = document.querySelector("#nav ul"), links = {};
document.querySelectorAll("section[data-nav]").forEach(function (section) {
  links[section.id] = h("a", { href: "#" + section.id }, section.dataset.nav);
  list.appendChild(h("li", {}, links[section.id]));
});

function mark() {
  var current = null;
  document.querySelectorAll("section[data-nav]").forEach(function (section) { if (section.getBoundingClientRect().top < 140) { current = section.id; } });
  if (window.innerHeight + window.scrollY > document.documentElement.scrollHeight - 4) { current = "setup"; }
  Object.keys(links).forEach(function (id) {
    if (id === current && !links[id].hasAttribute("aria-current")) {
      links[id].setAttribute("aria-current", "true");
      if (list.scrollWidth > list.clientWidth) { list.scrollLeft = links[id].offsetLeft - 60; }
    } else if (id !== current) { links[id].removeAttribute("aria-current"); }
  });
}
window.addEventListener("scroll", mark, { passive: true });
mark();

var drawings = DATA.kind === "run" ? [
  ["training", DATA.training.length, function (root) { drawTraining(root, DATA.training, "epoch"); }],
  ["items", DATA.items, drawItems],
  ["map", DATA.map, drawMap],
  ["matrix", DATA.matrix.length, function (root) { drawMatrix(root, DATA.matrix); }],
  ["views", DATA.views.length, function (root) { drawViews(root, DATA.views); }],
  ["checks", DATA.checks.length, function (root) { drawChecks(root, DATA.checks); }],
  ["khat", DATA.khat, function (root) { drawKhat(root, DATA.khat); }]
] : [
  ["training", DATA.training.length, function (root) { drawTraining(root, DATA.training, "epoch"); }],
  ["compared", DATA.compared, function (root) { drawCompared(root, DATA.compared.figures); }],
  ["differences", DATA.compared && DATA.compared.baseline, function (root) { drawDifferences(root, DATA.compared); }]
];
drawings.forEach(function (drawing) {
  var root = view(drawing[0]);
  if (root && drawing[1]) { drawing[2](root); }
});
document.documentElement.dataset.ready = "true";
