// What is folded away on the screen is printed all the same.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not(.plain)")) part.open = true;
});
