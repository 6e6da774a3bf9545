/* On a narrow screen figures and tables scroll sideways in boxes of their own. While one does, the
   Tab key leads to it, so that the arrow keys can move it. (The theme does so for code.) */
(function () {
  "use strict";
  var waiting = 0;
  function reach() {
    waiting = 0;
    document.querySelectorAll("main figure, main [style*='overflow-x']").forEach(function (box) {
      var scrolls = box.scrollWidth > box.clientWidth + 1 &&
        /auto|scroll/.test(getComputedStyle(box).overflowX);
      if (scrolls && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
        box.dataset.scrolls = "";
      } else if (!scrolls && "scrolls" in box.dataset) {
        box.removeAttribute("tabindex");
        delete box.dataset.scrolls;
      }
    });
  }
  function soon() {
    if (!waiting) waiting = setTimeout(reach, 100);
  }
  window.addEventListener("load", function () {
    var main = document.querySelector("main");
    if (main) new MutationObserver(soon).observe(main, { childList: true, subtree: true });
    soon();
  });
  window.addEventListener("resize", soon);
})();
