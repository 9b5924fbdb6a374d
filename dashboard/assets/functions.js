/* Everything that runs in the browser. In a file, since the page allows no inline script. */

window.dashMantineFunctions = window.dashMantineFunctions || {};
window.dashMantineFunctions.stepLabel = (value, { steps }) => {
  const step = steps[value];
  return step === undefined ? "" : "step " + step.toLocaleString("en-US");
};

// A picker has room for a short name; its list and its search know the whole one.
window.dashMantineFunctions.fullName = ({ option }) =>
  window.React.createElement("span", { className: "option" }, option.full || option.label);
window.dashMantineFunctions.byFullName = ({ options, search }) => {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (one) => {
    const text = `${one.full || one.label} ${one.value}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  return options
    .map((one) => (one.group ? { ...one, items: one.items.filter(fits) } : one))
    .filter((one) => (one.group ? one.items.length : fits(one)));
};

(() => {
  const skip = () => window.dash_clientside.no_update;
  const path = () => window.location.pathname.replace(/\/+$/, "") || "/";
  let drawn = 0;

  const preferred = () =>
    window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

  const quoted = (value) => {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };

  const save = (name, text, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const table = (plot) => {
    const rows = ["line,x,y"];
    for (const trace of plot._fullData || []) {
      if (!trace.x || trace.mode === "none") continue;
      for (let i = 0; i < trace.x.length; i += 1) {
        rows.push([trace.name, trace.x[i], trace.y[i]].map(quoted).join(","));
      }
    }
    return rows.join("\n") + "\n";
  };

  const act = (name, action) => {
    const section = document.getElementById(name + "-panel");
    const plot = section && section.querySelector(".js-plotly-plot");
    if (!plot) return;
    if (action === "png" || action === "svg") {
      const size = plot.getBoundingClientRect();
      window.Plotly.downloadImage(plot, {
        format: action,
        filename: "optgeom-" + name,
        width: Math.round(size.width),
        height: Math.round(size.height),
        scale: action === "png" ? 2 : 1,
      });
    } else if (action === "csv") {
      save("optgeom-" + name + ".csv", table(plot), "text/csv");
    } else if (action === "link") {
      navigator.clipboard.writeText(window.location.href);
    } else if (action === "full") {
      section.classList.toggle("full");
      window.dispatchEvent(new Event("resize"));
    }
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    optgeom: {
      scheme: (view, before) => {
        const asked = new URLSearchParams(window.location.search).get("theme");
        const wanted = view ? view.theme : asked;
        const scheme = wanted === "dark" || wanted === "light" ? wanted : preferred();
        return scheme === before ? [skip(), skip()] : [scheme, scheme];
      },

      // Replaced, not pushed: the way back leads to the page before, not through every step.
      address: (view) => {
        if (!view) return [skip(), skip()];
        window.history.replaceState(null, "", window.location.pathname + view.q);
        return ["/" + view.q, "/runs" + view.q];
      },

      // Brings the chosen row into the rail's view, without moving the page.
      reveal: () => {
        window.setTimeout(() => {
          const rail = document.getElementById("rail-box");
          const row = rail && rail.querySelector('.rail-row[aria-checked="true"]');
          if (!row || !row.offsetParent) return;
          const box = rail.getBoundingClientRect();
          const at = row.getBoundingClientRect();
          if (at.top < box.top + 120) rail.scrollTop -= box.top + 160 - at.top;
          if (at.bottom > box.bottom - 8) rail.scrollTop += at.bottom - box.bottom + 80;
        }, 50);
        return skip();
      },

      route: () => {
        const runs = path() === "/runs";
        return [
          runs ? { display: "none" } : {},
          runs ? {} : { display: "none" },
          runs ? "tab" : "tab active",
          runs ? "tab active" : "tab",
          runs ? "bar on-runs" : "bar",
        ];
      },

      playing: (clicks, stopped) =>
        stopped
          ? [false, "glyph glyph-pause", "Pause"]
          : [true, "glyph glyph-play", "Play"],

      // Waits until the step before has been drawn: a clock faster than the page would starve it.
      advance: (ticks, value, max, view) => {
        const busy = document.querySelector("[data-dash-is-loading]");
        if (busy || !view || view.at !== value) {
          drawn += 1;
          if (drawn < 20) return skip();
        }
        drawn = 0;
        return value >= max ? 0 : value + 1;
      },

      drawer: (clicks, away, layer, before) => {
        const asked = window.dash_clientside.callback_context.triggered_id === "rail-button";
        const open = asked && !before.includes("open");
        return [open ? "rail open" : "rail", open ? "scrim open" : "scrim"];
      },

      panel: () => {
        const from = window.dash_clientside.callback_context.triggered_id;
        const value = window.dash_clientside.callback_context.triggered[0]?.value;
        if (from && value) act(from.panel, from.action);
        return skip();
      },
    },
  });
})();
