// A picture in a frame of fixed size, with its alternative text: a taller one is scrolled in it. Tells the kernel every
// few seconds that it is still shown.
const ALIVE_MS = 5000;

function render({ model, el }) {
  const view = crypto.randomUUID?.() ?? String(Math.random());
  const frame = document.createElement("div"), image = document.createElement("img");
  const [width, height] = [model.get("width"), model.get("height")];
  const size = { width: `${width}px`, maxWidth: "100%", aspectRatio: `${width} / ${height}` }; // shrinks as a whole
  Object.assign(frame.style, { ...size, overflowY: "auto" });
  Object.assign(image.style, { width: "100%", display: "block" });
  image.onload = () => frame.tabIndex = frame.scrollHeight > frame.clientHeight ? 0 : -1; // the arrow keys scroll it
  frame.append(image);
  el.append(frame);

  const draw = () => {
    const before = image.src, png = model.get("png");
    image.style.visibility = png.byteLength ? "visible" : "hidden"; // nothing yet still takes its place
    image.alt = model.get("alt");
    image.src = URL.createObjectURL(new Blob([png], { type: "image/png" }));
    if (before) URL.revokeObjectURL(before); // the picture before is not shown any more
  };
  const tell = (shown) => {
    try {
      model.send({ view, shown });
    } catch {
      clearInterval(alive); // the kernel is gone, and with it who would listen
    }
  };
  const alive = setInterval(() => tell(true), ALIVE_MS);
  // Alt text and picture change together, and the picture comes last.
  model.on("change:png", draw);
  draw();
  tell(true);
  return () => {
    clearInterval(alive);
    model.off("change:png", draw);
    URL.revokeObjectURL(image.src);
    tell(false);
  };
}

export default { render };
