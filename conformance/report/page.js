"use strict";
(() => {
  const fields = ["words", "status", "rung", "subject"].map((name) => document.getElementById(name));
  const checks = [...document.querySelectorAll("details.check")];
  const count = document.getElementById("count");
  const apply = () => {
    const [words, ...exact] = fields.map((field) => field.value);
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const check of checks) {
      const text = check.textContent.toLowerCase();
      const fits = wanted.every((word) => text.includes(word)) &&
        exact.every((value, place) => !value || check.dataset[fields[place + 1].id] === value);
      check.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${checks.length} checks`;
  };
  for (const field of fields) field.addEventListener("input", apply);
  document.getElementById("open").addEventListener("click", () => {
    const closed = checks.filter((check) => !check.hidden && !check.open);
    for (const check of closed.length ? closed : checks) check.open = closed.length > 0;
  });
  document.getElementById("clear").addEventListener("click", () => {
    for (const field of fields) field.value = "";
    apply();
  });
  apply();
})();
