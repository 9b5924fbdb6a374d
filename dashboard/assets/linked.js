/* Figures know of each other: a crosshair at one step in all of them, a click that moves the step,
   chooses a neuron or opens a layer, a zoom that all figures over steps share. */

(() => {
  const { touch } = window.optgeom;
  const known = new WeakSet();
  const graphs = () => [...document.querySelectorAll("main .js-plotly-plot")];
  const overSteps = (plot) => plot.layout?.meta?.x === "step" && plot.offsetParent;
  const TWICE = 300;
  let rest = 0;
  let held = 0;
  let quietUntil = 0;

  // A line over a figure at one step: the crosshair, or the cursor of the chosen step. It is the
  // page's own, so that moving it draws no figure again.
  const line = (plot, name, step) => {
    let node = plot.querySelector(`:scope > .${name}`);
    if (!node) {
      node = document.createElement("div");
      node.className = name;
      plot.append(node);
    }
    const axis = plot._fullLayout?.xaxis;
    const size = plot._fullLayout?._size;
    const at = axis && step !== undefined ? axis.d2p(step) : -1;
    node.hidden = !(at >= 0 && at <= size.w);
    if (node.hidden) return;
    node.style.transform = `translateX(${size.l + at}px)`;
    node.style.top = `${size.t}px`;
    node.style.height = `${size.h}px`;
  };

  const cross = (from, step) => {
    for (const plot of graphs()) {
      if (plot !== from && overSteps(plot)) line(plot, "crosshair", step);
    }
  };

  window.optgeom.drawCursor = () => {
    for (const plot of graphs()) if (overSteps(plot)) line(plot, "cursor", window.optgeom.step);
  };

  const clear = () => {
    for (const node of document.querySelectorAll(".crosshair")) node.hidden = true;
  };

  // A heatmap's cell knows the step of the entry that it shows, and a second number.
  const shown = (point) => (point.data?.type === "heatmap" ? point.customdata : null);
  const stepOf = (point) => Number(shown(point)?.[0] ?? point.x);

  const clicked = (plot, event) => {
    const point = event.points?.[0];
    if (!point || plot.layout?.meta?.x !== "step") return;
    const cell = shown(point);
    const layers = plot.layout.meta.layers;
    if (cell && layers) open(layers[cell[1]], cell[0]);
    else if (cell && plot.closest(".dash-graph").id.startsWith("map-")) touch({ neuron: cell[1] });
    else touch({ step: stepOf(point) });
  };

  // A double click shows all steps again: where it can, a click waits whether a second one follows.
  const zoomedIn = () => /[?&]span=/.test(window.optgeom.view.q || "");
  const clickedOnce = (plot, event) => {
    window.clearTimeout(held);
    if (performance.now() < quietUntil) return;
    if (overSteps(plot) && zoomedIn()) held = window.setTimeout(() => clicked(plot, event), TWICE);
    else clicked(plot, event);
  };

  // Layers lead to Balance, at the layer and the step that were clicked; and so do findings, which
  // are of a stage too.
  const open = (layer, step, stage) => {
    window.history.pushState(null, "", `/${window.optgeom.view.q || ""}`);
    window.dispatchEvent(new PopStateEvent("popstate"));
    if (stage && stage !== window.optgeom.view.stage) touch({ stage });
    touch({ layer });
    touch({ step });
  };
  window.optgeom.open = open;

  const zoomed = (plot, event) => {
    if (!overSteps(plot)) return;
    const low = event["xaxis.range[0]"] ?? event["xaxis.range"]?.[0];
    const high = event["xaxis.range[1]"] ?? event["xaxis.range"]?.[1];
    if (low !== undefined && high !== undefined) {
      touch({ span: [Number(low), Number(high)] });
    }
  };

  const attach = () => {
    for (const plot of graphs()) {
      if (known.has(plot) || !plot.on) continue;
      known.add(plot);
      plot.on("plotly_afterplot", () => {
        if (overSteps(plot)) line(plot, "cursor", window.optgeom.step);
        const words = plot.layout?.meta?.words;
        const box = plot.closest('[role="img"]');
        if (!words || !box) return;
        box.setAttribute("aria-label", words);
        box.dataset.drawn = "";
      });
      plot.on("plotly_hover", (event) => {
        window.clearTimeout(rest);
        if (overSteps(plot) && event.points?.[0]) cross(plot, stepOf(event.points[0]));
      });
      plot.on("plotly_unhover", () => {
        window.clearTimeout(rest);
        rest = window.setTimeout(clear, 60);
      });
      plot.on("plotly_click", (event) => clickedOnce(plot, event));
      plot.on("plotly_relayout", (event) => zoomed(plot, event));
      plot.on("plotly_doubleclick", () => {
        window.clearTimeout(held);
        quietUntil = performance.now() + TWICE;
        if (overSteps(plot) && zoomedIn()) touch({ span: null });
      });
    }
  };

  new MutationObserver(attach).observe(document.documentElement, {
    childList: true,
    subtree: true,
  });
})();
