/* The findings are asked for once the page is drawn, since looking for them takes longer than any
   figure; and again where the server said that what it told had grown old. */

(() => {
  const { here } = window.optgeom;
  const skip = () => window.dash_clientside.no_update;
  const DRAWN = 5000;
  const LOOK = 200;
  let asked = "";
  let seen = "";
  let sent = "";
  let poll = 0;
  let later = 0;
  let count = 0;

  const busy = () =>
    document.querySelector('[data-dash-is-loading="true"]') ||
    [...document.querySelectorAll('main .panel > [role="img"]:not([data-drawn])')].some(
      (one) => one.offsetParent);

  const ask = () => {
    const { q, token } = window.optgeom.view;
    if (document.hidden || q === undefined) return;
    count += 1;
    window.dash_clientside.set_props("sees-findings", { data: { q, token, count } });
  };

  const askWhenDrawn = () => {
    window.clearTimeout(poll);
    const until = performance.now() + DRAWN;
    const wait = () => {
      if (busy() && performance.now() < until) poll = window.setTimeout(wait, LOOK);
      else ask();
    };
    poll = window.setTimeout(wait, LOOK);
  };

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) askWhenDrawn();
  });

  // -- the way to the section -----------------------------------------------------------------

  let leads = window.location.hash === "#findings";

  const arrive = () => {
    const title = document.getElementById("findings-title");
    if (!leads || here() !== "/runs" || !title?.offsetParent || busy()) return;
    leads = false;
    title.closest("section").scrollIntoView({ block: "start" });
    title.focus({ preventScroll: true });
  };

  const arriveWhenDrawn = () => {
    const until = performance.now() + DRAWN;
    const wait = () => {
      arrive();
      if (leads && performance.now() < until) window.setTimeout(wait, LOOK / 4);
      else leads = false;
    };
    wait();
  };
  if (leads) window.addEventListener("load", arriveWhenDrawn);

  const plain = (event) =>
    event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;

  document.addEventListener("click", (event) => {
    if (!plain(event)) return;
    if (event.target.closest?.("#findings-count")) {
      leads = true;
      window.setTimeout(arriveWhenDrawn);
      return;
    }
    const link = event.target.closest?.("a.opens");
    if (!link) return;
    event.preventDefault();
    const { layer, step, stage } = link.dataset;
    window.optgeom.open(layer, Number(step), stage);
    window.scrollTo(0, 0);
  });

  // On paper nothing can be unfolded.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("#findings details:not([open])")];
    for (const one of folded) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    findings: {
      follow: (view) => {
        if (!view) return skip();
        const runs = JSON.stringify([view.a, view.b, view.more]);
        const key = JSON.stringify([runs, view.token]);
        if (key !== asked) {
          // Of other runs nothing is known yet.
          if (runs !== seen) window.dash_clientside.set_props("findings-count", { children: [] });
          asked = key;
          seen = runs;
          askWhenDrawn();
        }
        return `/runs${view.q}#findings`;
      },

      known: (known) => {
        window.clearTimeout(later);
        if (known && known.again !== null) {
          later = window.setTimeout(ask, 1000 * Math.max(1, known.again));
        }
        if (!known || here() !== "/runs" || known.of === sent) return skip();
        sent = known.of;
        return { q: known.q, of: known.of };
      },
    },
  });
})();
