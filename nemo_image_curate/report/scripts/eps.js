// The slider of eps: how many rows go, the code for it, and the pairs of that strictness.

function addEpsSlider(box) {
  const { steps, rows, each } = data("eps-data");
  const cursor = box.querySelector(".cursor");
  const width = box.querySelector("svg").viewBox.baseVal.width;
  const groups = document.querySelectorAll(".at-eps");
  const input = element("input", {
    type: "range", min: 0, max: steps.length - 1, value: box.dataset.start, "aria-label": "eps",
  });
  const output = element("output");
  const code = element("code");
  box.append(input, element("p", {}, output),
    element("div", { class: "controls" }, code, copyButton(() => code.textContent)));
  const show = () => {
    const step = Number(input.value);
    const [eps, removed, low, high] = steps[step];
    const told = `eps ${eps}: about ${counted(removed)} rows go, ${share(removed, rows)} ` +
      `(${counted(low)} to ${counted(high)})`;
    output.textContent = told;
    input.setAttribute("aria-valuetext", told);
    code.textContent = `SemanticDedup(eps=${eps})(ds)`;
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, (width * step) / (steps.length - 1));
    // The pairs at the first marked eps that is not smaller.
    const shownGroup = Math.max(0, Math.ceil(step / each) - 1);
    groups.forEach((group, place) => { group.hidden = place !== shownGroup; });
  };
  cursor.setAttribute("visibility", "visible");
  input.addEventListener("input", show);
  show();
}

for (const box of document.querySelectorAll(".eps")) addEpsSlider(box);
