// Streamlit draws its parts when it likes: the field for the query may not be there yet.
(() => {
  const until = performance.now() + 5000;
  const focus = () => {
    const field = document.querySelector("[data-testid=stMain] .stTextInput input");
    if (!field) {
      if (performance.now() < until) requestAnimationFrame(focus);
      return;
    }
    // Where there is a keyboard; a phone's would cover half of the page.
    const nothing = !document.activeElement || document.activeElement === document.body;
    if (nothing && matchMedia("(hover: hover)").matches) field.focus();
  };
  focus();
})();
