// Keys pressed in the panel around this widget do not reach the page behind it; those with Ctrl, Alt or Cmd do.
const stay = (event) => {
  if (!(event.ctrlKey || event.altKey || event.metaKey)) event.stopPropagation();
};

function render({ el }) {
  let frame, panel;
  el.style.display = "none";
  const find = () => {
    panel = el.isConnected && el.parentElement;
    if (panel) panel.addEventListener("keydown", stay);
    else frame = requestAnimationFrame(find); // rendered, and not yet in its panel
  };
  find();
  return () => {
    cancelAnimationFrame(frame);
    if (panel) panel.removeEventListener("keydown", stay);
  };
}

export default { render };
