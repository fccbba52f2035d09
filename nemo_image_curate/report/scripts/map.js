// The map: colours by a column, and a lasso that shows pictures and gives an expression.

const SVG = "http://www.w3.org/2000/svg";

class PointMap {
  constructor(holder, told) {
    this.holder = holder;
    this.told = told;
    this.svg = holder.querySelector("svg");
    this.cells = [...holder.querySelectorAll(".pictured > figure")];
    this.strip = holder.querySelector(".pictured");
    this.legend = element("div", { class: "controls legend" });
    holder.querySelector("ul.legend")?.remove();
    this.output = element("p", { role: "status" }, "Draw around points, or choose a colour below.");
    this.code = element("code");
    const clear = element("button", { type: "button" }, "Clear");
    clear.addEventListener("click", () => this.choose([], null));
    this.result = element("div", { class: "controls" }, this.code,
      copyButton(() => this.code.textContent), clear);
    this.result.hidden = true;
    this.svg.after(this.legend, this.output, this.result);
    this.lasso = document.createElementNS(SVG, "path");
    this.lasso.setAttribute("class", "lasso");
    this.svg.append(this.lasso);
    this.svg.classList.add("live");
    this.svg.addEventListener("pointerdown", (event) => this.draw(event));
    this.colour(0);
  }

  /** Colour all points by a column. */
  colour(number) {
    const { colourings, places } = this.told;
    const colouring = colourings[number];
    if (!colouring) return;
    this.svg.querySelectorAll(".dots:not(.chosen)").forEach((path) => path.remove());
    this.svg.classList.toggle("ordered", colouring.ordered);
    this.legend.classList.toggle("ordered", colouring.ordered);
    const lines = {};
    places.forEach(([x, y], point) => {
      const own = colouring.classes[point];
      lines[own] = `${lines[own] ?? ""}M${x} ${y}h0`;
    });
    for (const [own, line] of Object.entries(lines)) this.svg.prepend(dots(line, `colour-${own}`));
    const select = element("select", { "aria-label": "Colour the map by" },
      ...colourings.map((one, place) => element("option", { value: place }, one.column)));
    select.value = number;
    select.addEventListener("change", () => {
      this.colour(Number(select.value));
      this.legend.querySelector("select").focus();
    });
    const keys = colouring.members.map(([own, name, condition]) => {
      const key = document.createElementNS(SVG, "svg");
      key.setAttribute("class", "key");
      key.setAttribute("viewBox", "0 0 10 10");
      key.append(dots("M5 5h0", `colour-${own}`));
      const button = element("button", { type: "button" }, key, ` ${name}`);
      button.addEventListener("click", () => {
        const points = places.map((_, point) => point)
          .filter((point) => Number(colouring.classes[point]) === own);
        this.lasso.setAttribute("d", "");
        this.choose(points, condition);
      });
      return button;
    });
    this.legend.replaceChildren(select, ...keys);
  }

  /** Follow a pointer around points. */
  draw(event) {
    const box = this.svg.getBoundingClientRect();
    const { width, height } = this.svg.viewBox.baseVal;
    const line = [];
    const add = (moved) => {
      line.push([((moved.clientX - box.left) / box.width) * width,
        ((moved.clientY - box.top) / box.height) * height]);
      this.lasso.setAttribute("d", `M${line.map((point) => point.map(Math.round).join(" ")).join("L")}Z`);
    };
    add(event);
    this.svg.setPointerCapture(event.pointerId);
    this.svg.addEventListener("pointermove", add);
    const end = () => {
      this.svg.removeEventListener("pointermove", add);
      const points = this.told.places.map((_, point) => point)
        .filter((point) => isInside(this.told.places[point], line));
      this.choose(points, null);
    };
    this.svg.addEventListener("pointerup", end, { once: true });
    this.svg.addEventListener("pointercancel", end, { once: true });
    event.preventDefault();
  }

  /** Show some points, their pictures, and what to filter by: a condition, or else their keys. */
  choose(points, condition) {
    this.svg.querySelector(".chosen")?.remove();
    const { places, keys } = this.told;
    if (points.length) {
      this.lasso.before(dots(points.map((point) => `M${places[point].join(" ")}h0`).join(""), "chosen"));
    } else this.lasso.setAttribute("d", "");
    const wanted = new Set(points);
    this.cells.forEach((cell, point) => { cell.hidden = !wanted.has(point); });
    const pictured = points.filter((point) => point < this.cells.length).length;
    this.strip.hidden = !pictured;
    this.result.hidden = !points.length;
    this.code.textContent = condition ? filterCall(condition) : callOf(this.told, points.map((point) => keys[point]).filter((key) => key !== null));
    this.output.textContent = points.length
      ? `${counted(points.length)} of the map's ${counted(places.length)} rows` +
        `${condition ? "; the expression takes all rows of the dataset like them" : ""}; ` +
        `${counted(pictured)} of them with a picture here`
      : "Draw around points, or choose a colour below.";
  }
}

function dots(line, name) {
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("class", `dots ${name}`);
  path.setAttribute("d", line);
  return path;
}

for (const holder of document.querySelectorAll(".map")) new PointMap(holder, data("map-data"));
