// Numbers as text, and the ticks of axes. Nothing here needs a document.
function isNumber(value) { return typeof value === "number" && isFinite(value); }

function short(value) {
  if (!isNumber(value)) { return "–"; }
  var size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) { return value.toExponential(2); }
  if (size >= 1000) { return Number.isInteger(value) ? String(value) : value.toFixed(1); }
  return String(+value.toPrecision(size >= 100 ? 4 : 3));
}

function power(value) { return Math.floor(Math.log10(value) + 1e-9); }

function ticks(low, high, count) {
  if (!(high > low)) { return [low]; }
  var raw = (high - low) / Math.max(count, 1), unit = Math.pow(10, Math.floor(Math.log10(raw)));
  var step = [1, 2, 5, 10].map(function (m) { return m * unit; }).find(function (x) { return x >= raw * 0.999; });
  var found = [];
  for (var k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) { found.push(+(k * step).toPrecision(12)); }
  return found.length < 2 && count < 64 ? ticks(low, high, 2 * count) : found;
}

// All labels of an axis have the decimals of its step, so that no two of them are equal.
function tickLabels(values) {
  if (values.length < 2) { return values.map(short); }
  var largest = Math.max.apply(null, values.map(Math.abs));
  var step = Math.min.apply(null, values.slice(1).map(function (value, i) { return Math.abs(value - values[i]); }));
  if (!(step > 0)) { return values.map(short); }
  return values.map(function (value) {
    if (largest < 1e6 && largest >= 1e-3) { return value.toFixed(Math.max(0, -power(step))); }
    return value ? value.toExponential(Math.max(0, power(Math.abs(value)) - power(step))) : "0";
  });
}

// A function that writes the values of a figure: shortly where that shows differences of a hundredth of its range.
function readerOf(low, high) {
  var least = (high - low) / 100;
  return function (value) {
    var text = short(value);
    return least > 0 && Math.abs(Number(text) - value) > least / 2 ? value.toFixed(Math.min(9, Math.max(0, -power(least)))) : text;
  };
}
