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
    const layer = document.querySelector(".layer-line span")?.textContent ?? "";
    const note = section.querySelector(".panel-note").textContent;
    const step = document.getElementById("step-text").textContent;
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

  window.optgeom.act = (name, action) => {
    const section = document.getElementById(`${name}-panel`);
    const plot = section && section.querySelector(".js-plotly-plot");
    if (!plot) return;
    if (action === "png" || action === "svg") {
      picture(section, plot, action);
    } else if (action === "csv") {
      save(`optgeom-${name}.csv`, `/csv/${name}${window.optgeom.view.q || ""}`);
    } else if (action === "link") {
      navigator.clipboard.writeText(window.location.href);
    } else if (action === "full") {
      section.classList.toggle("full");
      window.dispatchEvent(new Event("resize"));
    }
  };
})();
