function drawMap(name) {
  // Outputs of cells may be shown twice; each script belongs to the element before it.
  const root = [...document.querySelectorAll(`[id="${name}"]`)].pop();
  const data = JSON.parse(document.getElementById(`${name}-data`).textContent);
  // After Okabe and Ito ("Color universal design", 2008), lighter or darker to show on white and black.
  const PALETTE = ["#2f8fd8", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8f00", "#7b61c9", "#a0522d", "#8899a6"];
  const NULL = "#9aa7b2";
  // Ends and middle of a scale whose lightness rises, as viridis has it (S. van der Walt, N. Smith 2015).
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const MARGIN = 14, NEAR = 8;
  const n = data.keys.length, radius = n < 300 ? 5 : 2.6;

  root.innerHTML = `<canvas tabindex="0" role="img"></canvas><div class="legend"></div>
    <div class="tools"><span class="count" aria-live="polite">Draw a loop around points.</span>
    <button class="copy" disabled>Copy expression</button><button class="clear" disabled>Clear</button></div>
    <label class="muted">Expression<textarea readonly rows="3" spellcheck="false"></textarea></label>`;
  const canvas = root.querySelector("canvas"), text = root.querySelector("textarea");
  const count = root.querySelector(".count"), copy = root.querySelector(".copy"), clear = root.querySelector(".clear");
  canvas.setAttribute("aria-label", `Map of ${n} points`);
  let loop = [], chosen = new Set(), drawing = false;

  function ramp(part) {
    const at = part * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
    const mixed = RAMP[low].map((one, k) => Math.round(one + (at - low) * (RAMP[low + 1][k] - one)));
    return `rgb(${mixed.join(",")})`;
  }
  function colour(i) {
    if (!data.colours) return PALETTE[0];
    const value = data.colours[i];
    if (value < 0) return NULL;
    return data.categories ? PALETTE[value] : ramp(value);
  }
  // Points are between 0 and 1 on the longer axis, and up to less on the other.
  const extent = [0, 1].map((axis) => data.xy.reduce((most, one, k) => (k % 2 === axis ? Math.max(most, one) : most), 1e-9));
  function place(i) {
    const { width, height } = canvas.getBoundingClientRect();
    const scale = Math.min((width - 2 * MARGIN) / extent[0], (height - 2 * MARGIN) / extent[1]);
    return [
      width / 2 + (data.xy[2 * i] - extent[0] / 2) * scale,
      height / 2 - (data.xy[2 * i + 1] - extent[1] / 2) * scale,
    ];
  }
  function draw() {
    const { width, height } = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    for (let i = 0; i < n; i++) {
      const [x, y] = place(i);
      pen.globalAlpha = chosen.size && !chosen.has(i) ? 0.15 : 0.75;
      pen.fillStyle = colour(i);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    }
    if (loop.length > 1) {
      pen.globalAlpha = 1;
      pen.strokeStyle = getComputedStyle(root).color;
      pen.setLineDash([5, 4]);
      pen.beginPath();
      loop.forEach(([x, y]) => pen.lineTo(x, y));
      pen.closePath();
      pen.stroke();
    }
  }
  function choose() {
    chosen = new Set();
    for (let i = 0; i < n; i++) if (loop.length > 2 && data.keys[i] !== null && isInside(place(i), loop)) chosen.add(i);
    const keys = [...new Set([...chosen].map((i) => data.keys[i]))];
    text.value = keys.length ? callOf(data, keys) : "";
    count.textContent = chosen.size ? `${chosen.size.toLocaleString("en")} of ${n.toLocaleString("en")} points` : "Draw a loop around points.";
    copy.disabled = clear.disabled = !chosen.size;
    draw();
  }
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    drawing = true;
    loop = [at(event)];
    chosen = new Set();
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (drawing) {
      loop.push([x, y]);
      draw();
      return;
    }
    let best = -1, nearest = NEAR * NEAR;
    for (let i = 0; i < n; i++) {
      const [px, py] = place(i), far = (px - x) ** 2 + (py - y) ** 2;
      if (far < nearest) [best, nearest] = [i, far];
    }
    canvas.title = best < 0 ? "" : `${data.keys[best]}${data.told ? `\n${data.color}: ${data.told[best]}` : ""}`;
  });
  function stop() {
    if (drawing) {
      drawing = false;
      choose();
    }
  }
  canvas.addEventListener("pointerup", stop);
  canvas.addEventListener("pointercancel", stop);
  clear.addEventListener("click", () => {
    loop = [];
    choose();
  });
  canvas.addEventListener("keydown", (event) => event.key === "Escape" && clear.click());
  copy.addEventListener("click", async () => {
    text.select();
    try {
      await navigator.clipboard.writeText(text.value);
    } catch {
      document.execCommand("copy");
    }
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy expression"), 1500);
  });
  function legend() {
    const box = root.querySelector(".legend");
    if (!data.colours) return;
    const told = (label, background) => {
      const one = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = background;
      one.append(dot, label);
      box.append(one);
    };
    box.append(`${data.color}:`);
    if (data.categories) data.categories.forEach((label, k) => told(label, PALETTE[k]));
    else [0, 1].forEach((end) => told(data.ends[end], ramp(end)));
    if (data.colours.includes(-1)) told("null", NULL);
  }
  legend();
  new ResizeObserver(draw).observe(canvas);
}
