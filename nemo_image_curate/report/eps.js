// The slider of eps: how many rows go, the code for it, and the pairs of that strictness.
(() => {
  const box = document.querySelector(".eps");
  if (!box) return;
  const { steps, rows, each } = JSON.parse(document.getElementById("eps-data").textContent);
  const control = box.querySelector(".control");
  const input = control.querySelector("input");
  const cursor = box.querySelector(".cursor");
  const groups = document.querySelectorAll(".at-eps");
  const count = new Intl.NumberFormat("en-US");
  const show = () => {
    const step = Number(input.value);
    const [eps, removed, low, high] = steps[step];
    const share = rows ? (100 * removed) / rows : 0;
    const told = `${eps}: about ${count.format(removed)} rows removed (${share.toFixed(1)} %; ` +
      `${count.format(low)} to ${count.format(high)})`;
    control.querySelector("output").textContent = told;
    input.setAttribute("aria-valuetext", told);
    control.querySelector("code").textContent = `SemanticDedup(eps=${eps})(ds)`;
    const x = (600 * step) / (steps.length - 1);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    // The pairs at the first marked eps that is not smaller.
    const shown = Math.max(0, Math.ceil(step / each) - 1);
    groups.forEach((group, place) => { group.hidden = place !== shown; });
  };
  cursor.setAttribute("visibility", "visible");
  control.hidden = false;
  input.addEventListener("input", show);
  show();
})();
