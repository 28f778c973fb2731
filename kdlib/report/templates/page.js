// The page works without this: static figures and tables are in it. Libraries stand in the page, as JSON, and load when needed.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const loaded = {};
function library(name) {
  const source = () => URL.createObjectURL(new Blob([read(name + "-bundle")], { type: "text/javascript" }));
  return (loaded[name] ??= import(source()));
}

function checkbox(group, text, mark, change, checked = true) {
  const label = document.createElement("label"), box = document.createElement("input");
  Object.assign(box, { type: "checkbox", checked });
  box.addEventListener("change", () => change(box.checked));
  label.append(box, mark, text);
  group.append(label);
}

function drawn(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  return element;
}

function mark(outline, colour) {
  const picture = drawn("svg", { viewBox: "-1.3 -1.3 2.6 2.6", width: 14, height: 14, "aria-hidden": "true" });
  picture.append(drawn("path", { d: outline, fill: colour }));
  return picture;
}

async function draw(place) {
  const { points, charts, methods, debiasers, collapsed } = read(place.dataset.chart);
  await library("charts");
  const panels = document.createElement("div"), hidden = new Set();
  panels.className = "panels";
  place.hidden = false;
  place.append(panels);
  const views = [], places = charts.map(() => panels.appendChild(document.createElement("div")));
  for (const [number, specification] of charts.entries()) {  // all places stand before one is measured
    const { view } = await vegaEmbed(places[number], { ...specification, datasets: { points } }, { actions: false, renderer: "svg" });
    views.push(view);
  }
  const set = (name, value) => views.forEach((view) => view.signal(name, value).runAsync());
  const disc = "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z";
  const switches = (title, kind, entries) => {
    const group = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = title;
    group.append(legend);
    for (const { name, label, colour = "currentColor", outline = disc } of entries)
      checkbox(group, label, mark(outline, colour), (on) => {
        hidden[on ? "delete" : "add"](kind + " " + name);
        set("hidden", [...hidden]);
      });
    place.append(group);
    return group;
  };
  switches("Methods", "method", methods);
  const group = switches("Debiasers", "debias", debiasers);
  if (collapsed) checkbox(group, "collapsed models", "", (on) => set("collapsed", on), false);
  place.closest("figure").querySelector(".static")?.remove();
}

document.querySelectorAll(".trade-off").forEach((figure) => {
  const place = figure.querySelector(".interactive");
  if (place) new IntersectionObserver((entries, self) => {
    if (entries.some((entry) => entry.isIntersecting)) { self.disconnect(); draw(place); }
  }, { rootMargin: "600px" }).observe(figure);
});

library("tables").then(({ jQuery }) => document.querySelectorAll("table.sortable").forEach((table) => {
  const name = table.getAttribute("aria-label");
  const filter = table.tBodies[0].rows.length > 5;
  const made = jQuery(table).DataTable({
    paging: false, info: false, order: [], autoWidth: false, searching: true,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
  });
  if (!filter) return;
  const label = document.createElement("label"), field = document.createElement("input");
  Object.assign(field, { type: "search", placeholder: "all of these words" });
  field.addEventListener("input", () => made.search(field.value).draw());
  field.setAttribute("aria-label", "Filter " + name);
  label.className = "filter";
  label.append("Filter rows ", field);
  table.closest(".scroll").before(label);
}));

// Paper shows what is folded on the screen.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
