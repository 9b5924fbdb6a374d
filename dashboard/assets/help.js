/* The "?" beside a title: a card on hover and on focus. Texts are set as text, never as markup. */

(() => {
  let card = null;
  let wait = 0;

  const hide = () => {
    window.clearTimeout(wait);
    if (!card) return;
    card.from.removeAttribute("aria-describedby");
    card.node.remove();
    card = null;
  };

  const line = (tag, className, text) => {
    const node = document.createElement(tag);
    node.className = className;
    node.textContent = text;
    return node;
  };

  const show = (button) => {
    hide();
    const said = JSON.parse(button.dataset.help);
    const node = document.createElement("div");
    node.className = "help-card";
    node.id = "help-card";
    node.setAttribute("role", "tooltip");
    if (said.formula) node.append(line("code", "", said.formula));
    node.append(line("p", "", said.text), ...said.notes.map((one) => line("p", "quiet", one)));
    document.body.append(node);
    const at = button.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - node.offsetWidth - 8);
    const below = at.bottom + 8 + node.offsetHeight < window.innerHeight;
    node.style.left = `${Math.max(8, left) + window.scrollX}px`;
    node.style.top = `${window.scrollY + (below ? at.bottom + 8 : at.top - node.offsetHeight - 8)}px`;
    button.setAttribute("aria-describedby", "help-card");
    card = { node, from: button };
  };

  const over = (event) => {
    const button = event.target.closest?.(".help");
    if (!button) return;
    window.clearTimeout(wait);
    wait = window.setTimeout(() => show(button), event.type === "focusin" ? 0 : 120);
  };

  document.addEventListener("mouseover", over);
  document.addEventListener("focusin", over);
  document.addEventListener("mouseout", (event) => event.target.closest?.(".help") && hide());
  document.addEventListener("focusout", (event) => event.target.closest?.(".help") && hide());
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();
