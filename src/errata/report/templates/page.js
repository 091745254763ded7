"use strict";
const specs = JSON.parse(document.getElementById("specs").textContent);
const byId = (id) => document.getElementById(id);
const views = {};

function show(range) {
  for (const [name, view] of Object.entries(views)) {
    if (name === "overview" || !("first" in view.getState().signals)) continue;
    view.signal("first", range ? range[0] : whole[0]).signal("last", range ? range[1] : whole[1]).runAsync();
  }
  byId("whole").hidden = !range;
  byId("range").textContent = range
    ? `Edits ${Math.round(range[0])} to ${Math.round(range[1])}`
    : "Drag on the strip to look closer at a range of edits.";
}

let whole = [0, 1];

async function draw() {
  const options = { actions: false, renderer: "svg", mode: "vega-lite", hover: true };
  for (const [name, spec] of Object.entries(specs)) {
    const made = await vegaEmbed(byId(name), spec, options);
    views[name] = made.view;
    const first = spec.params && spec.params.find((p) => p.name === "first");
    if (first) whole = [first.value, spec.params.find((p) => p.name === "last").value];
  }
  if (views.overview) {
    views.overview.addSignalListener("brush", (_, brush) => {
      const range = brush.step;
      show(range && range[1] - range[0] >= 1 ? range : null);
    });
    byId("whole").onclick = async () => {
      show(null);
      // Drawing the strip anew is the one way to take its brush away.
      views.overview.finalize();
      delete views.overview;
      views.overview = (await vegaEmbed(byId("overview"), specs.overview, options)).view;
      views.overview.addSignalListener("brush", (_, brush) => show(brush.step || null));
    };
  }
  document.body.dataset.drawn = Object.keys(views).length;
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function csv(spec) {
  const lines = spec.layer.filter((l) => l.mark.type === "line");
  const rows = lines.flatMap((l) => (l.data.values || spec.datasets[l.data.name]));
  const fields = ["step", "series", "window", "value", "low", "high"];
  const cell = (v) => (v === null ? "" : /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v);
  return [fields, ...rows.map((r) => fields.map((f) => r[f]))].map((r) => r.map(cell).join(",")).join("\n") + "\n";
}

document.addEventListener("click", async (event) => {
  const { save: kind, figure } = event.target.dataset;
  if (kind === "csv") save(`${figure}.csv`, "text/csv", csv(specs[figure]));
  if (kind === "svg") {
    const style = getComputedStyle(document.documentElement);
    const svg = await views[figure].toSVG();
    save(`${figure}.svg`, "image/svg+xml", svg.replace(/var\((--\w+)\)/g, (_, v) => style.getPropertyValue(v)));
  }
});

function table() {
  const body = document.querySelector("#edits tbody");
  if (!body) return;
  const rows = [...body.rows];
  const text = new Map(rows.map((r) => [r, r.textContent.toLowerCase()]));
  const step = 50;
  let limit = step;
  const filter = () => {
    const wanted = byId("find").value.trim().toLowerCase();
    const marked = byId("marked").checked;
    let found = 0;
    for (const row of body.rows) {
      const fits = (!marked || row.classList.contains("marked")) && text.get(row).includes(wanted);
      row.hidden = !fits || ++found > limit;
    }
    byId("count").textContent = `${Math.min(found, limit)} of ${found} edits`;
    byId("more").hidden = found <= limit;
  };
  byId("find").oninput = byId("marked").onchange = () => { limit = step; filter(); };
  byId("more").onclick = () => { limit += 10 * step; filter(); };
  document.querySelectorAll("#edits th").forEach((th, column) => {
    th.firstElementChild.onclick = () => {
      const down = th.getAttribute("aria-sort") === "ascending";
      document.querySelectorAll("#edits th").forEach((other) => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const value = row.cells[column].dataset.value;
        if (th.dataset.sort === "text") return value.toLowerCase();
        return value === "" ? -Infinity : value === "nan" ? -1e308 : Number(value);
      };
      const sign = down ? -1 : 1;
      rows.sort((a, b) => (key(a) < key(b) ? -sign : key(a) > key(b) ? sign : 0));
      body.append(...rows);
      filter();
    };
  });
  filter();
}

table();
draw();
