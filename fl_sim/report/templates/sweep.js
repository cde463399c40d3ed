// Draws the heat map that the three choices ask for, from the data in #sweep-data.
const source = document.getElementById("sweep-data");
if (source) {
  const data = JSON.parse(source.textContent);
  const chosen = name => document.getElementById("choose-" + name);

  // The same words as fl_sim/report/formats.py.
  const formats = {
    share: v => 0 < v && v < 0.0005 ? "< 0.1 %" : 0.9995 <= v && v < 1 ? "> 99.9 %"
      : (100 * v).toFixed(1).replace(/\.0$/, "") + " %",
    number: v => v.toFixed(2).replace(/\.?0+$/, ""),
    decibel: v => v.toFixed(1) + " dB",
    ratio: v => v.toFixed(3),
    error: v => {
      if (v >= 100 && v < 1000) return v.toFixed(0);
      if (v === 0 || (v >= 0.01 && v < 1000)) return String(Number(v.toPrecision(2)));
      const [digits, exponent] = v.toExponential(1).split("e");
      return digits + "e" + Number(exponent);
    },
    seconds: v => {
      if (v === 0) return "0 s";
      if (v < 59.95) return v < 0.995 ? v.toFixed(2) + " s" : v.toFixed(1) + " s";
      const whole = Math.round(v), pad = n => String(n).padStart(2, "0");
      const minutes = Math.floor(whole / 60);
      return minutes < 60 ? `${minutes} min ${pad(whole % 60)} s`
        : `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} min`;
    },
  };
  const joins = {
    mean: values => values.reduce((sum, v) => sum + v, 0) / values.length,
    worst: values => Math.max(...values),
  };
  const level = (scale, values) => {
    const place = v => scale === "log" ? Math.log(Math.max(v, 1e-16)) : v;
    const low = scale === "range" || scale === "log" ? Math.min(...values.map(place)) : 0;
    const high = scale === "unit" ? 1 : Math.max(...values.map(place));
    return v => Math.floor(data.levels * Math.min(1, Math.max(0,
      high > low ? (place(v) - low) / (high - low) : 0)) + 0.5);
  };
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    node.textContent = text;
    return node;
  };

  const draw = () => {
    const across = Number(chosen("across").value);
    const down = chosen("down").value === "" ? null : Number(chosen("down").value);
    const metric = Number(chosen("metric").value);
    const { label, format, join, scale } = data.metrics[metric];
    const columns = data.axes[across].values;
    const lines = down === null ? ["all runs"] : data.axes[down].values;
    const cells = lines.map((_, y) => columns.map((_, x) => {
      const runs = data.runs.filter(r => r.at[across] === x && (down === null || r.at[down] === y));
      const values = runs.map(r => r.values[metric]).filter(v => v !== null);
      return { runs, value: values.length ? joins[join](values) : null };
    }));
    const known = cells.flat().map(c => c.value).filter(v => v !== null);
    const colour = level(scale, known);

    const table = document.getElementById("heat");
    table.caption.textContent = label;
    const top = table.tHead.rows[0], heads = table.tHead.rows[1];
    top.cells[1].textContent = data.axes[across].key;
    top.cells[1].colSpan = columns.length;
    const corner = heads.cells[0];
    corner.textContent = down === null ? "" : data.axes[down].key;
    heads.replaceChildren(corner, ...columns.map(text => {
      const cell = make("th", "", text);
      cell.scope = "col";
      return cell;
    }));
    table.tBodies[0].replaceChildren(...cells.map((row, y) => {
      const line = document.createElement("tr");
      const head = make("th", "", lines[y]);
      head.scope = "row";
      line.append(head, ...row.map(({ runs, value }) => {
        const text = value === null ? (runs.length ? "no figure" : "no run") : formats[format](value);
        const cell = make("td", "", "");
        cell.title = runs.length < 2 ? (runs.length ? "one run" : "no run")
          : `${join === "worst" ? "largest" : "mean"} of ${runs.length} runs`;
        if (value === null) {
          cell.className = "none";
        } else {
          cell.style.setProperty("--v", colour(value));
          if (colour(value) >= data.strong) cell.className = "strong";
        }
        if (runs.length === 1) {
          const link = make("a", "", text);
          link.href = runs[0].link;
          cell.append(link);
        } else {
          cell.textContent = text;
        }
        return cell;
      }));
      return line;
    }));
    const others = data.axes.filter((_, k) => k !== across && k !== down).map(a => a.key);
    document.getElementById("averaged").textContent = others.length
      ? `Each cell joins all runs that differ only in ${others.join(", ")}: their ${join === "worst" ? "largest" : "mean"} value.`
      : "";
  };

  document.getElementById("controls").hidden = false;
  for (const name of ["across", "down", "metric"]) {
    chosen(name).addEventListener("change", () => {
      const [across, down] = [chosen("across"), chosen("down")];
      if (across.value === down.value) {
        const other = name === "across" ? down : across;
        const free = [...other.options].map(o => o.value).filter(v => v !== "" && v !== across.value);
        other.value = free.length ? free[0] : "";
        if (other === across && !free.length) down.value = "";
      }
      draw();
    });
  }
}
