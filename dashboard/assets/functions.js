/* The callbacks that run in the browser. */

(() => {
  const skip = () => window.dash_clientside.no_update;
  const { touch, page } = window.optgeom;
  const PAGES = ["/", "/spectra", "/layers", "/runs"];
  const here = () => (PAGES.includes(page()) ? page() : "/");
  let waited = 0;

  const preferred = () =>
    window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    optgeom: {
      // Each page looks at a store of its own, which follows the view while the page is shown: a
      // page that is not shown asks for nothing.
      look: (view, path, before, ...had) => {
        window.optgeom.answered(view);
        const asked = new URLSearchParams(window.location.search).get("theme");
        const wanted = view ? view.theme : asked;
        const scheme = wanted === "dark" || wanted === "light" ? wanted : preferred();
        const now = view && { q: view.q, token: view.token, scheme };
        // The last one is the table of neurons, which looks only while it is open.
        const shown = [...PAGES.map((one) => one === here()), here() === "/" && view?.table];
        const sees = shown.map((one, i) =>
          view && one && JSON.stringify(now) !== JSON.stringify(had[i]) ? now : skip());
        return [...(scheme === before ? [skip(), skip()] : [scheme, scheme]), ...sees];
      },

      // Replaced, not pushed: the way back leads to the page before, not through every step.
      address: (view) => {
        if (!view) return PAGES.map(skip);
        window.history.replaceState(null, "", window.location.pathname + view.q);
        return PAGES.map((path) => path + view.q);
      },

      route: () => {
        const name = here().slice(1) || "balance";
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

      metric: (metric, view) => {
        if (metric && view && metric !== view.metric) touch({ metric });
        return skip();
      },

      by: (by, view) => {
        if (by && view && by !== view.by) touch({ by });
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
    if (details.open !== Boolean(window.optgeom.view.table)) touch({ table: details.open });
  }, true);

  // A tab that nobody sees asks for nothing; shown again, it asks at once.
  document.addEventListener("visibilitychange", () => {
    window.dash_clientside.set_props("tick", { disabled: document.hidden });
    if (document.hidden) {
      window.dash_clientside.set_props("play-clock", { disabled: true });
      window.dash_clientside.set_props("play-glyph", { className: "glyph glyph-play" });
    }
  });
})();
