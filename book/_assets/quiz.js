// A chapter's quiz checks itself: the button compares the option chosen with the right one and
// copies what the page says about it into a status line, which screen readers speak. Without this
// script the button stays hidden, and the answers can be opened all the same.
document.querySelectorAll(".quiz-question").forEach((question) => {
  const button = question.querySelector(".quiz-check");
  const verdict = question.querySelector(".quiz-verdict");
  const answer = question.querySelector(".quiz-answer");
  const clear = () => {
    verdict.replaceChildren();
    verdict.removeAttribute("data-verdict");
  };
  button.hidden = false;
  question.addEventListener("change", clear);
  button.addEventListener("click", () => {
    clear();
    const chosen = question.querySelector("input:checked");
    const line = document.createElement("p");
    if (!chosen) {
      line.textContent = "Choose an option first.";
      verdict.append(line);
      return;
    }
    const right = chosen.dataset.right === "yes";
    line.innerHTML = right ? "<strong>✓ Right.</strong> " : "<strong>✗ Not this one.</strong> ";
    const why = document.getElementById(chosen.id + "-why").querySelector(".quiz-why");
    line.append(...why.cloneNode(true).childNodes);
    verdict.dataset.verdict = right ? "right" : "wrong";
    verdict.append(line);
    if (right) answer.open = true;
  });
});
