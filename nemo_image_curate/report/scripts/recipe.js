// The recipe can be copied.

for (const recipe of document.querySelectorAll("pre.recipe")) {
  recipe.after(element("div", { class: "controls" }, copyButton(() => recipe.textContent)));
}
