/* What the other scripts share. In files, since the page allows no inline script. */

(() => {
  const PAGES = ["/", "/spectra", "/layers", "/runs"];
  const ORDER = ["a", "b", "more", "layer", "stage", "step", "theme", "by", "metric", "neuron",
    "span", "table"];
  const DEFAULTS = { stage: "update", metric: "neuron_norm_cv", by: "step" };
  let waiting = [];
  let count = 0;
  let drawn = "";
  const last = {};

  const here = () => {
    const path = window.location.pathname.replace(/\/+$/, "") || "/";
    return PAGES.includes(path) ? path : "/";
  };

  // As the server writes a view: one view has one address.
  const quoted = (text) =>
    encodeURIComponent(text).replace(/[!'()*]/g, (one) =>
      `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
  const search = (pairs) => {
    const ordered = ORDER.flatMap((key) => pairs.filter(([name]) => name === key));
    const text = ordered.map(([key, value]) => `${key}=${quoted(value)}`).join("&");
    return text && `?${text}`;
  };

  const nearest = (steps, step) =>
    steps.reduce((best, one) => (Math.abs(one - step) < Math.abs(best - step) ? one : best));

  // What the address will be after a touch, where that is plain; null where the server must say.
  // Figures are asked for at once then. The server's answer is what counts: if it is another, they
  // are asked for again.
  const foreseen = (q, what) => {
    const [[key, value]] = Object.entries(what);
    const pairs = [...new URLSearchParams(q)].filter(([name]) => name !== key);
    const now = new URLSearchParams(q).get(key);
    if (key === "step") {
      const { steps } = optgeom;
      if (!steps?.length || !Number.isFinite(value)) return null;
      const stop = nearest(steps, value);
      return search(stop === steps.at(-1) ? pairs : [...pairs, [key, String(stop)]]);
    }
    if (key === "layer") {
      return value === now
        ? q
        : search([...pairs.filter(([name]) => name !== "neuron"), [key, value]]);
    }
    if (key === "neuron") {
      return search(String(value) === now ? pairs : [...pairs, [key, String(value)]]);
    }
    if (key === "span") {
      if (value === null) return search(pairs);
      const [low, high] = [Math.max(0, Math.min(...value)), Math.max(...value)];
      const [first, end] = [Math.ceil(low), Math.floor(high)];
      return first < end ? search([...pairs, [key, `${first}-${end}`]]) : null;
    }
    if (key === "table") return search(value ? [...pairs, [key, "1"]] : pairs);
    if (["theme", "metric", "by", "stage"].includes(key)) {
      return search(value === DEFAULTS[key] ? pairs : [...pairs, [key, value]]);
    }
    return null;
  };

  const wanted = () => new URLSearchParams(drawn || window.location.search).get("theme");
  const scheme = () => {
    if (["light", "dark"].includes(wanted())) return wanted();
    return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  };

  const put = (id, prop, value) => {
    const text = JSON.stringify(value);
    if (last[id] === text) return;
    last[id] = text;
    window.dash_clientside.set_props(id, { [prop]: value });
  };

  // Each page looks at stores of its own, which follow the view while the page is shown: a page that
  // is not shown asks for nothing. One store lacks the step, for what stays while steps go by.
  const see = (q) => {
    if (optgeom.view.q === undefined) return;
    drawn = q;
    const name = here().slice(1) || "balance";
    const { token } = optgeom.view;
    const pairs = [...new URLSearchParams(q)];
    const still = search(pairs.filter(([key]) => key !== "step"));
    put("mantine", "forceColorScheme", scheme());
    put(`sees-${name}`, "data", { q, token, scheme: scheme() });
    put(`sees-${name}-still`, "data", { q: still, token, scheme: scheme() });
    if (name === "balance" && pairs.some(([key]) => key === "table")) {
      put("sees-table", "data", { q, token });
    }
    // The stop at or before it, as the server takes it; the last one where none is asked for.
    const asked = new URLSearchParams(q).get("step");
    const before = optgeom.steps.filter((one) => asked === null || one <= Number(asked));
    optgeom.step = before.at(-1) ?? optgeom.steps[0];
    optgeom.drawCursor?.();
  };

  const optgeom = (window.optgeom = {
    PAGES,
    here,
    scheme,
    // The view as the server last sent it, and the step that the cursor stands at.
    view: {},
    steps: [],
    step: undefined,

    // Tells the server what was touched. Touches faster than the answers are told together, since a
    // callback that is asked again forgets the question before.
    touch: (what) => {
      count += 1;
      const q = foreseen(drawn, what);
      waiting.push({ ...what, number: count });
      if (q !== null) see(q);
      window.dash_clientside.set_props("touched", { data: [...waiting] });
    },

    // Whether something was touched that no answer knows of yet.
    waits: () => waiting.length > 0,

    answered: (view, steps) => {
      if (!view) return;
      optgeom.view = view;
      optgeom.steps = steps;
      const root = document.documentElement;
      if (!view.a) root.dataset.empty = "run";
      else if (!view.layer) root.dataset.empty = "layer";
      else delete root.dataset.empty;
      waiting = waiting.filter((one) => one.number > view.touched);
      if (!waiting.length) see(view.q);
    },
  });

  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => see(drawn));
})();

window.dashMantineFunctions = window.dashMantineFunctions || {};
window.dashMantineFunctions.stepLabel = (value, { steps }) => {
  const step = steps[value];
  return step === undefined ? "" : "step " + step.toLocaleString("en-US");
};

// A picker has room for a short name; its list and its search know the whole one.
window.dashMantineFunctions.fullName = ({ option }) =>
  window.React.createElement(
    "span",
    { className: "option" },
    option.full || option.label,
    option.badge && window.React.createElement("span", { className: "badge" }, option.badge),
  );
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
