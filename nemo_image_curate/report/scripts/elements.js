// What all scripts of the page use.

/** An element with attributes and children; a text child is a text, never HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The values that the page holds for its scripts under an id. */
function data(id) {
  const holder = document.getElementById(id);
  return holder ? JSON.parse(holder.textContent) : null;
}

const counted = (n) => n.toLocaleString("en-US");

/** A part of a whole, as the page's other per cents are written. */
function share(count, total) {
  if (!total) return "0 %";
  const percent = (100 * count) / total;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  if (percent < 100 && percent > 99.9) return "> 99.9 %";
  return `${percent.toFixed(1)} %`;
}

/** A number as the page's other values are written: four digits, and all before the point. */
function readable(value) {
  if (typeof value !== "number" || Number.isInteger(value)) return value.toLocaleString("en-US");
  if (value && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e15)) return value.toPrecision(3);
  const digits = Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString("en-US", { maximumFractionDigits: digits });
}

/** A button that copies a text, or lets the reader do it where a browser forbids that. */
function copyButton(text, label = "Copy") {
  const button = element("button", { type: "button" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    } catch {
      prompt("Copy this:", text());
    }
  });
  return button;
}
