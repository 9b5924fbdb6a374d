/* The left rail: a dumbbell per layer, and a radio group to choose one by. Names are set as text,
   never as markup. */

(() => {
  const { touch } = window.optgeom;
  let drawn = null;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const mark = (run) => {
    const node = make("span", `mark mark-${run.side}`);
    const slot = run.slot >= 0 && run.slot < 6 ? run.slot : "other";
    node.style.setProperty("--run", `var(--run-${slot})`);
    node.setAttribute("aria-hidden", "true");
    return node;
  };

  const stop = (run) => {
    const node = make("span", "stop");
    node.append(mark(run));
    return node;
  };

  const row = (data, runs) => {
    const node = make("div", data.tall ? "rail-row tall" : "rail-row");
    node.setAttribute("role", "radio");
    node.dataset.layer = data.layer;
    const track = make("span", "track");
    track.append(make("span", "link"), ...runs.map(stop));
    node.append(make("span", "rail-name", data.name), track);
    return node;
  };

  const build = (box, data) => {
    const named = make("div", "rail-runs");
    for (const run of data.runs) {
      const one = make("span");
      one.title = run.name;
      one.append(mark(run), run.short);
      if (run.computed) one.append(make("span", "badge", "computed"));
      named.append(one);
    }
    const scale = make("div", "rail-scale");
    const track = make("span", "track");
    for (const left of ["0%", "50%", "100%"]) {
      const tick = make("span");
      tick.style.left = left;
      track.append(tick);
    }
    scale.append(make("span", "rail-name"), track);
    const groups = data.groups.map((group) => {
      const node = make("details", "rail-group");
      node.open = !data.folded;
      const summary = make("summary");
      const medians = make("span", "rail-medians");
      medians.title = `median of ${group.rows.length} layers`;
      summary.append(make("span", "rail-kind", group.kind), medians);
      const rows = make("div");
      rows.append(...group.rows.map((one) => row(one, data.runs)));
      node.append(summary, rows);
      return node;
    });
    box.setAttribute("role", "radiogroup");
    box.setAttribute("aria-label", "Layer");
    box.replaceChildren(named, scale, ...groups);
    return [...box.querySelectorAll(".rail-row")];
  };

  const place = (node, data, runs, at, said) => {
    const [link, ...stops] = node.querySelector(".track").children;
    const pair = at.slice(0, 2).filter((one) => one !== null);
    link.hidden = pair.length < 2;
    link.style.left = `${Math.min(...pair)}%`;
    link.style.width = `${Math.abs(pair[0] - pair[1])}%`;
    stops.forEach((one, i) => {
      one.hidden = at[i] === null;
      one.style.left = `${at[i]}%`;
    });
    const values = runs.map((run, i) => `${run.label} ${said[i]}`).join(", ");
    node.title = `${data.layer}\n${data.title}\n${values}`;
    node.setAttribute("aria-label", `${data.title}: ${values}`);
  };

  // Brings the chosen row into the rail's view, without moving the page.
  const reveal = (node) => {
    const rail = document.getElementById("rail-box");
    if (!rail || !node.offsetParent) return;
    const box = rail.getBoundingClientRect();
    const at = node.getBoundingClientRect();
    if (at.top < box.top + 120) rail.scrollTop -= box.top + 160 - at.top;
    if (at.bottom > box.bottom - 8) rail.scrollTop += at.bottom - box.bottom + 80;
  };

  const select = (box, layer) => {
    if (!drawn) return;
    for (const node of drawn.nodes) {
      const chosen = node.dataset.layer === layer;
      const was = node.getAttribute("aria-checked") === "true";
      node.setAttribute("aria-checked", String(chosen));
      node.tabIndex = chosen ? 0 : -1;
      if (chosen && !was) {
        node.closest("details").open = true;
        reveal(node);
      }
    }
  };

  window.optgeom.drawRail = (rows, values, layer) => {
    const box = document.getElementById("rail");
    if (!box || !rows || !rows.groups || !values) return;
    const flat = rows.groups.flatMap((group) => group.rows);
    // Rows and values may come one after the other: wait for the pair.
    if (flat.length !== values.at.length) return;
    if (!drawn || drawn.rows !== rows) drawn = { rows, nodes: build(box, rows) };
    if (drawn.values !== values) {
      drawn.values = values;
      drawn.nodes.forEach((node, i) =>
        place(node, flat[i], rows.runs, values.at[i], values.said[i]));
      box.querySelectorAll(".rail-scale .track span").forEach((tick, i) => {
        tick.textContent = values.scale[i];
      });
      box.querySelectorAll(".rail-medians").forEach((node, i) => {
        node.replaceChildren(
          ...values.medians[i].flatMap((text, at) => [mark(rows.runs[at]), text]));
      });
    }
    select(box, layer);
  };

  const pick = (node) => {
    if (node) touch({ layer: node.dataset.layer });
  };

  document.addEventListener("click", (event) => pick(event.target.closest?.(".rail-row")));

  const KEYS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
  document.addEventListener("keydown", (event) => {
    const node = event.target.closest?.(".rail-row");
    if (!node) return;
    if (event.key in KEYS) {
      const shown = drawn.nodes.filter((one) => one.offsetParent);
      const next = shown[shown.indexOf(node) + KEYS[event.key]];
      event.preventDefault();
      if (!next) return;
      next.focus();
      pick(next);
    } else if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      pick(node);
    }
  });
})();
