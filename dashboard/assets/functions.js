/* The callbacks that run in the browser. */

(() => {
  const skip = () => window.dash_clientside.no_update;
  const { touch, here, scheme, waits, PAGES } = window.optgeom;
  const opened = new Set();
  let waited = 0;

  const told = (view, shown, value, what) => {
    if (view && value !== undefined && (shown !== value || waits())) touch(what);
    return skip();
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    optgeom: {
      look: (view, path, steps) => {
        window.optgeom.answered(view, steps);
        return skip();
      },

      // Replaced, not pushed: the way back leads to the page before, not through every step.
      address: (view) => {
        if (!view) return PAGES.map(skip);
        const { pathname, hash } = window.location;
        window.history.replaceState(null, "", pathname + view.q + hash);
        return PAGES.map((path) => path + view.q);
      },

      route: () => {
        const name = here().slice(1) || "balance";
        // A page is put into the document when it is first opened.
        if (name !== "balance" && !opened.has(name)) {
          opened.add(name);
          window.dash_clientside.set_props(`page-${name}-opened`, { data: true });
        }
        for (const tab of document.querySelectorAll("nav .tab")) {
          const current = tab.pathname === here();
          if (current) tab.setAttribute("aria-current", "page");
          else tab.removeAttribute("aria-current");
        }
        document.title = `${name[0].toUpperCase()}${name.slice(1)} \u00b7 optgeom`;
        return [
          ...PAGES.map((path) => (path === here() ? {} : { display: "none" })),
          ...PAGES.map((path) => (path === here() ? "tab active" : "tab")),
          `bar on-${name}`,
        ];
      },

      rail: (rows, values, view) => {
        window.optgeom.drawRail(rows, values, view && view.layer);
        return skip();
      },

      table: (view) => {
        const details = document.getElementById("neurons-details");
        if (details && view) details.open = view.table;
        return skip();
      },

      playing: (clicks, stopped) =>
        stopped
          ? [false, "glyph glyph-pause", "Pause"]
          : [true, "glyph glyph-play", "Play"],

      // Waits until the step before has been drawn: a clock faster than the page would starve it.
      advance: (ticks, value, max, view) => {
        const busy = document.querySelector("[data-dash-is-loading]");
        if (busy || !view || view.at !== value) {
          waited += 1;
          if (waited < 20) return skip();
        }
        waited = 0;
        return value >= max ? 0 : value + 1;
      },

      drawer: (clicks, away, layer, before) => {
        const asked = window.dash_clientside.callback_context.triggered_id === "rail-button";
        const open = asked && !before.includes("open");
        return [open ? "rail open" : "rail", open ? "scrim open" : "scrim"];
      },

      // A value that the server has just set is no touch: it is what the view says.
      touched_a: (a, view) => told(view, view?.a, a, { a }),
      touched_b: (b, view) => told(view, view?.b ?? null, b ?? null, { b }),
      touched_more: (more, view) => told(view, view?.more.join("\n"), more?.join("\n"), { more }),
      touched_layer: (layer, view) => told(view, view?.layer, layer, { layer }),
      touched_stage: (stage, view) => told(view, view?.stage, stage, { stage }),
      touched_step: (at, view, steps) => told(view, view?.at, at, { step: steps[at] }),
      touched_metric: (metric, view) => told(view, view?.metric, metric, { metric }),
      touched_by: (by, view) => told(view, view?.by, by, { by }),

      swap: (clicks) => {
        if (clicks) touch({ swap: true });
        return skip();
      },

      theme: (clicks) => {
        if (clicks) touch({ theme: scheme() === "dark" ? "light" : "dark" });
        return skip();
      },

      everything: (clicks) => {
        if (clicks) touch({ span: null });
        return skip();
      },

      neuron: (cell) => {
        if (cell && cell.rowId) touch({ neuron: Number(cell.rowId.split(" ").pop()) });
        return skip();
      },

      search: (text, options) => ({ ...options, quickFilterText: text || "" }),

      csv: (clicks) => Boolean(clicks),
    },
  });

  document.addEventListener("toggle", (event) => {
    const details = event.target;
    if (details.id !== "neurons-details") return;
    const shown = Boolean(window.optgeom.view.table);
    if (details.open !== shown || waits()) touch({ table: details.open });
  }, true);

  // A tab that nobody sees asks for nothing, and plays nothing.
  document.addEventListener("visibilitychange", () => {
    window.dash_clientside.set_props("tick", { disabled: document.hidden });
    if (document.hidden) {
      window.dash_clientside.set_props("play-clock", { disabled: true });
      window.dash_clientside.set_props("play-glyph", { className: "glyph glyph-play" });
      window.dash_clientside.set_props("play", { title: "Play" });
    }
  });
})();
