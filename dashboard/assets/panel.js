/* The menu of a figure: pictures, data, link, full width. */

(() => {
  const save = (name, href) => {
    const link = document.createElement("a");
    link.href = href;
    link.download = name;
    link.click();
  };

  const escaped = (text) =>
    text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  // A saved picture stands alone, so it carries what the page says around it.
  const picture = (section, plot, format) => {
    const box = plot.getBoundingClientRect();
    const title = section.getAttribute("aria-label");
    const head = section.querySelector("h2").textContent;
    const layer = section.closest(".content")?.querySelector(".layer-line span")?.textContent ?? "";
    const note = section.querySelector(".panel-note").textContent;
    const told = / at step /.test(layer) || window.optgeom.here() === "/runs";
    const step = told ? "" : document.getElementById("step-text").textContent;
    const words = [...new Set([title, head, layer, step, note].filter(Boolean))];
    const margin = { ...plot.layout.margin, t: (plot.layout.margin?.t ?? 8) + 32 };
    const layout = {
      ...plot.layout,
      margin,
      width: Math.round(box.width),
      height: Math.round(box.height) + 32,
      title: {
        text: escaped(words.join(" \u00b7 ")),
        font: { size: 14 },
        x: 0,
        xref: "container",
        xanchor: "left",
        pad: { l: 16 },
        y: 1,
        yanchor: "top",
        yref: "container",
        automargin: false,
      },
    };
    layout.title.pad.t = 12;
    if (plot.layout.meta?.x === "step" && layout.shapes?.length) {
      const { step } = window.optgeom;
      const line = { ...layout.shapes[0], visible: step !== undefined, x0: step, x1: step };
      layout.shapes = [line, ...layout.shapes.slice(1)];
    }
    window.Plotly.downloadImage(
      { data: plot.data, layout, config: { displayModeBar: false } },
      {
        format,
        filename: `optgeom-${section.id.replace(/-panel$/, "")}`,
        width: layout.width,
        height: layout.height,
        scale: format === "png" ? 2 : 1,
      },
    );
  };

  const act = (name, action) => {
    const section = document.getElementById(`${name}-panel`);
    const plot = section && section.querySelector(".js-plotly-plot");
    if (!plot) return;
    if (action === "png" || action === "svg") {
      picture(section, plot, action);
    } else if (action === "csv") {
      save(`optgeom-${name}.csv`, `/csv/${name}${window.optgeom.view.q || ""}`);
    } else if (action === "link") {
      // Over plain http from another machine browsers have no clipboard.
      if (navigator.clipboard) navigator.clipboard.writeText(window.location.href);
      else window.prompt("The link to this view", window.location.href);
    } else if (action === "full") {
      section.classList.toggle("full");
      window.dispatchEvent(new Event("resize"));
    }
  };

  const ACTIONS = {
    png: "Save as PNG",
    svg: "Save as SVG",
    csv: "Save data as CSV",
    link: "Copy link to this view",
    full: "Full width",
  };
  let menu = null;

  const close = (focus) => {
    if (!menu) return;
    const { node, button } = menu;
    menu = null;
    node.remove();
    button.setAttribute("aria-expanded", "false");
    if (focus) button.focus();
  };

  const open = (button) => {
    const node = document.createElement("div");
    node.className = "menu";
    node.setAttribute("role", "menu");
    for (const [action, text] of Object.entries(ACTIONS)) {
      const item = document.createElement("button");
      item.type = "button";
      item.setAttribute("role", "menuitem");
      item.textContent = text;
      item.addEventListener("click", () => {
        close(true);
        act(button.dataset.panel, action);
      });
      node.append(item);
    }
    menu = { node, button };
    button.setAttribute("aria-expanded", "true");
    button.closest(".panel").append(node);
    node.firstChild.focus();
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.(".menu-button");
    const again = button && menu?.button === button;
    if (!event.target.closest?.(".menu")) close(false);
    if (button && !again) open(button);
  });

  document.addEventListener("keydown", (event) => {
    if (!menu) return;
    const items = [...menu.node.children];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (event.key === "Escape" || event.key === "Tab") close(true);
    else if (to !== undefined) items.at(to % items.length).focus();
    else return;
    event.preventDefault();
  });
})();
