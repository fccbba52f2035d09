// A picture's link opens its entry in a dialog; the address then leads there again.

const viewer = element("dialog", { "aria-label": "Picture" });
const place = element("div");
const previous = element("button", { type: "button" }, "← Previous");
const next = element("button", { type: "button" }, "Next →");
const close = element("button", { type: "button", autofocus: "" }, "Close");
const copyLink = copyButton(() => location.href, "Copy link");
viewer.append(element("div", { class: "bar-of-buttons" }, copyLink, previous, next, close), place);
document.body.append(viewer);
let around = [];
let position = 0;

function showEntry(anchor) {
  const entry = document.getElementById(anchor);
  if (!entry) return;
  place.replaceChildren(...[...entry.childNodes].map((child) => child.cloneNode(true)));
  history.replaceState(null, "", `#${anchor}`);
  previous.disabled = position <= 0;
  next.disabled = position >= around.length - 1;
  if (!viewer.open) viewer.showModal();
}

function step(by) {
  const to = position + by;
  if (to < 0 || to >= around.length) return;
  position = to;
  showEntry(around[position]);
}

const anchorOf = (link) => link.getAttribute("href").slice(1);

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a.open");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const shelf = link.closest(".strip, .grid") ?? link.parentElement;
  around = [...shelf.querySelectorAll("a.open")].map(anchorOf);
  position = around.indexOf(anchorOf(link));
  showEntry(anchorOf(link));
});
previous.addEventListener("click", () => step(-1));
next.addEventListener("click", () => step(1));
close.addEventListener("click", () => viewer.close());
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close();
});
viewer.addEventListener("close", () => history.replaceState(null, "", " "));

/** Where the address leads to a picture, it is opened at once. */
function openFromAddress() {
  const anchor = decodeURIComponent(location.hash.slice(1));
  if (!anchor.startsWith("row-")) return;
  around = [anchor];
  position = 0;
  showEntry(anchor);
}
openFromAddress();

/** A picture of this page again, with another line below. */
function pictureCell(anchor, text) {
  const link = document.querySelector(`a.open[href="#${anchor}"]`);
  if (!link) return null;
  return element("figure", {}, link.cloneNode(true), element("figcaption", {}, text));
}
