/* Runs after require.js and before embed-amd.js, on pages with widgets. */
(function () {
  "use strict";
  var here = document.currentScript.src.replace(/\/[^/]*$/, "");
  window.requirejs.config({
    paths: {
      // Named modules inside embed-amd.js. The manager looks for its fonts beside these paths.
      "@jupyter-widgets/html-manager": here + "/html-manager",
      "@jupyter-widgets/html-manager/dist/libembed-amd": here + "/libembed-amd",
    },
  });
  // The theme's Font Awesome must leave alone the icons that widgets add later.
  window.FontAwesomeConfig = Object.assign({ observeMutations: false }, window.FontAwesomeConfig);

  // Widgets call MathJax 2; the pages have MathJax 3.
  function shim() {
    var M = window.MathJax;
    if (!M || M.Hub) return;
    M.Hub = {
      Queue: function (job) {
        var element = job && job[2];
        if (!element || !M.startup || !M.startup.promise) return;
        M.startup.promise = M.startup.promise
          .then(function () { return M.typesetPromise([element]); })
          .catch(function (e) { console.warn("formula in a widget:", e.message); });
      },
    };
  }

  // A slider's handle has no name of its own, and its number is that of a position.
  function name(slider) {
    var handle = slider.querySelector(".noUi-handle");
    var label = slider.querySelector(".widget-label");
    var shown = slider.querySelector(".widget-readout");
    if (!handle || !label) return;
    var said = shown ? shown.textContent : "";
    if (handle.getAttribute("aria-label") !== label.textContent)
      handle.setAttribute("aria-label", label.textContent);
    if (handle.getAttribute("aria-valuetext") !== said) handle.setAttribute("aria-valuetext", said);
    // Typing there does nothing in a page, so it is no stop for the Tab key.
    if (shown && shown.getAttribute("contenteditable") === "true")
      shown.setAttribute("contenteditable", "false");
    if (label.title === "null") label.removeAttribute("title");
  }
  function nameAll() {
    document.querySelectorAll(".widget-slider, .widget-hslider").forEach(name);
  }
  function watch() {
    shim();
    new MutationObserver(nameAll).observe(document.body, {
      childList: true, subtree: true, characterData: true,
      attributes: true, attributeFilter: ["aria-valuetext"],
    });
    nameAll();
  }
  shim();
  document.addEventListener("DOMContentLoaded", watch);
  window.addEventListener("load", shim);
})();
