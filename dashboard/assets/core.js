/* What the other scripts share. In files, since the page allows no inline script. */

window.optgeom = {
  // Tells the server what was touched inside a figure, the rail or a table. Touches faster than the
  // answers are told together, since a callback that is asked again forgets the question before.
  waiting: [],
  count: 0,
  touch: (what) => {
    const { optgeom } = window;
    optgeom.count += 1;
    optgeom.waiting.push({ ...what, number: optgeom.count });
    window.dash_clientside.set_props("touched", { data: [...optgeom.waiting] });
  },
  answered: (view) => {
    window.optgeom.view = view || {};
    window.optgeom.waiting = window.optgeom.waiting.filter(
      (one) => one.number > (view?.touched ?? 0));
  },

  page: () => window.location.pathname.replace(/\/+$/, "") || "/",

  // The view as the server last sent it.
  view: {},
};

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
