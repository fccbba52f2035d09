// Thresholds that are dragged, and ranges and values whose pictures are shown.

const NEAR = 14; // Pixels from a threshold within which a pointer takes hold of it.
const MOST_SHOWN = 60;
const EACH_SIDE = 12;
const shown = data("columns-data");

/** The pictures of this page that have a value, as [anchor, value], by value. */
function picturesBy(section) {
  const { place } = shown.columns[section.dataset.column];
  return Object.entries(shown.pictures)
    .map(([anchor, values]) => [anchor, values[place]])
    .filter(([, value]) => value != null)
    .sort(([, a], [, b]) => (a < b ? -1 : a > b ? 1 : 0));
}

/** Show pictures below a line of text, and how rows like them are chosen. */
function showPictures(section, found, text, condition) {
  const holder = section.querySelector(".brushed");
  const code = element("code", {}, filterCall(condition));
  const clear = element("button", { type: "button" }, "Clear");
  clear.addEventListener("click", () => {
    holder.replaceChildren();
    section.querySelector(".selected")?.remove();
  });
  const cells = found.slice(0, MOST_SHOWN).map(([anchor, value]) => pictureCell(anchor, readable(value)));
  const more = found.length > MOST_SHOWN ? `, the first ${MOST_SHOWN} shown` : "";
  holder.replaceChildren(
    element("h4", { role: "status" }, `${text}; ${counted(found.length)} on this page${more}`),
    element("div", { class: "controls" }, code, copyButton(() => code.textContent), clear),
    element("div", { class: "strip" }, ...cells.filter(Boolean)),
  );
}

/** A column of numbers. */
class NumberColumn {
  constructor(section, column) {
    this.section = section;
    this.column = column;
    const figure = section.querySelector(".hist");
    this.svg = figure.querySelector("svg");
    this.mark = this.svg.querySelector(".mark");
    this.axis = new Axis(this.svg, column.edges, column.counts);
    this.place = this.axis.placeOf(column.value);
    this.keepsHigh = column.operator.startsWith(">");
    figure.classList.add("live");
    this.addControls(figure);
    this.draw();
    this.svg.addEventListener("pointerdown", (event) => this.grab(event));
  }

  addControls(figure) {
    const name = this.section.dataset.column;
    this.slider = element("input", {
      type: "range", min: 0, max: this.axis.bars, step: 1 / this.axis.perBar,
      "aria-label": `Threshold of ${name}`,
    });
    this.slider.addEventListener("input", () => this.moveTo(this.axis.stepAt(Number(this.slider.value)), false));
    this.slider.addEventListener("change", () => this.showNear());
    figure.append(this.slider);
    this.side = element("select", { "aria-label": `Which side of the threshold of ${name} stays` },
      element("option", { value: "high" }, "keep from here up"),
      element("option", { value: "low" }, "keep below"));
    this.side.value = this.keepsHigh ? "high" : "low";
    this.side.addEventListener("change", () => {
      this.keepsHigh = this.side.value === "high";
      this.moveTo(Math.round(this.place));
    });
    const cut = this.section.querySelector(".cut");
    this.output = cut.querySelector("output");
    this.code = cut.querySelector("code");
    this.origin = cut.querySelector(".note");
    const bounds = ["from", "to"].map((which) =>
      element("input", { type: "number", step: "any", placeholder: which,
        "aria-label": `Show pictures ${which} this value of ${name}` }));
    const show = element("button", { type: "button" }, "Show pictures between");
    show.addEventListener("click", () => {
      const [low, high] = bounds.map((input) => input.value);
      const { edges } = this.axis;
      const from = low === "" ? 0 : Math.round(this.axis.placeOf(Number(low)));
      const to = high === "" ? edges.length - 1 : Math.round(this.axis.placeOf(Number(high)));
      this.brush(Math.min(from, to), Math.max(from, to, from + 1));
    });
    cut.after(element("div", { class: "controls" },
      copyButton(() => this.code.textContent, "Copy expression"), this.side, show, ...bounds));
  }

  /** Put the threshold at the beginning of a step, where the count is exact. */
  moveTo(step, movesSlider = true) {
    this.place = Math.min(Math.max(step, 0), this.axis.counts.length - 1);
    const value = this.axis.edges[this.place];
    const kept = this.keepsHigh
      ? this.axis.rows(this.place) : this.axis.rows(0, this.place);
    const { rows, name, infinite } = this.column;
    const apart = infinite ? `, ${counted(infinite)} infinite ones not counted` : "";
    const total = element("strong", {}, counted(kept));
    this.output.replaceChildren(total, ` of ${counted(rows)} rows stay (${share(kept, rows)}${apart})`);
    this.code.textContent = filterCall(`${name} ${this.keepsHigh ? ">=" : "<"} ${value}`);
    this.origin.textContent = "";
    this.draw(movesSlider);
  }

  draw(movesSlider = true) {
    const bars = this.axis.xOf(this.place);
    const x = bars * this.axis.barWidth;
    if (movesSlider) this.slider.value = bars;
    for (const end of ["x1", "x2"]) this.mark?.setAttribute(end, x);
    this.slider.setAttribute("aria-valuetext", this.code?.textContent ?? "");
    for (const bar of this.svg.querySelectorAll(".series-0 rect")) {
      const middle = bar.x.baseVal.value + bar.width.baseVal.value / 2;
      bar.classList.toggle("out", this.keepsHigh ? middle < x : middle > x);
    }
  }

  /** Take hold of the threshold, or begin to brush a range. */
  grab(event) {
    const isThreshold = this.axis.pixelsTo(this.place, event) < NEAR;
    const stepAt = (pointer) => this.axis.stepAt(this.axis.xOfPointer(pointer));
    const start = stepAt(event);
    this.svg.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const step = stepAt(moved);
      if (isThreshold) this.moveTo(step);
      else this.select(Math.min(start, step), Math.max(start, step));
    };
    const end = (ended) => {
      this.svg.removeEventListener("pointermove", move);
      if (ended.type === "pointercancel") return;
      const [from, to] = [start, stepAt(ended)].sort((a, b) => a - b);
      if (isThreshold) this.showNear();
      else if (from < to) this.brush(from, to);
      else this.brushBar(Math.min(Math.floor(this.axis.xOfPointer(ended)), this.axis.bars - 1));
    };
    this.svg.addEventListener("pointermove", move);
    this.svg.addEventListener("pointerup", end, { once: true });
    this.svg.addEventListener("pointercancel", end, { once: true });
    event.preventDefault();
  }

  select(from, to) {
    let area = this.svg.querySelector(".selected");
    if (!area) {
      area = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      area.setAttribute("class", "selected");
      area.setAttribute("height", this.svg.viewBox.baseVal.height);
      this.svg.append(area);
    }
    const [left, right] = [from, to].map((place) => this.axis.xOf(place) * this.axis.barWidth);
    area.setAttribute("x", left);
    area.setAttribute("width", right - left);
  }

  /** Show the pictures of a bar that was clicked. */
  brushBar(bar) {
    const [start, size] = this.axis.stepsOf(bar);
    this.brush(start, start + size);
  }

  /** Show the pictures of this page that are nearest to where the threshold is now. */
  showNear() {
    const value = this.axis.edges[this.place];
    const all = picturesBy(this.section);
    const first = all.findIndex(([, own]) => own >= value);
    const middle = first < 0 ? all.length : first;
    const near = all.slice(Math.max(0, middle - EACH_SIDE), middle + EACH_SIDE);
    const condition = `${this.column.name} ${this.keepsHigh ? ">=" : "<"} ${value}`;
    this.section.querySelector(".selected")?.remove();
    showPictures(this.section, near, `Nearest to ${readable(value)}`, condition);
  }

  /** Show the pictures between two edges. */
  brush(from, to) {
    this.select(from, to);
    const { edges } = this.axis;
    const isLast = to >= edges.length - 1;
    const [low, high] = [edges[from], edges[Math.min(to, edges.length - 1)]];
    const text = `${counted(this.axis.rows(from, to))} rows from ${readable(low)} to ${readable(high)}`;
    const condition = `${low} <= ${this.column.name} ${isLast ? "<=" : "<"} ${high}`;
    const isWanted = (value) => value >= low && (value < high || (isLast && value <= high));
    const found = picturesBy(this.section).filter(([, value]) => isWanted(value));
    showPictures(this.section, found, text, condition);
  }
}

/** A column of few values: each is a button that shows its pictures. */
function addCategories(section) {
  for (const span of section.querySelectorAll(".value")) {
    const button = element("button", { type: "button", class: "value" }, span.textContent);
    const { value, condition } = span.dataset;
    button.addEventListener("click", () => {
      const found = picturesBy(section).filter(([, own]) => String(own) === value);
      showPictures(section, found, `Rows with ${value}`, condition);
    });
    span.replaceWith(button);
  }
}

for (const section of document.querySelectorAll(".column[data-column]")) {
  const column = shown?.columns[section.dataset.column];
  if (column?.edges && section.querySelector(".hist")) new NumberColumn(section, column);
  else if (column) addCategories(section);
}
