"""The report's page in a browser: it opens from a file, its filters work, and the console has no message.

    tox run -e browser -- sftref-report/report.json shots

Needs Debian's packages `chromium` and `chromium-driver`. Writes screenshots for a wide and a narrow screen, light and
dark. Exit code 1 if the page has a problem.
"""

import json
import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from sftref.conformance.report.page import page

SCREENS = {"wide": (1280, 900), "tablet": (420, 900), "phone": (390, 844)}
# The elements of the page whose content is wider than they are, and neither cut nor scrolled.
PAST = """return [...document.querySelectorAll('body *:not(svg, svg *)')].filter(e => e.clientWidth > 0 &&
  e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'visible' &&
  getComputedStyle(e).display !== 'inline').map(e => e.outerHTML.slice(0, 120))"""


def browser(size: tuple[int, int], *, dark: bool) -> webdriver.Chrome:
    """A headless Chromium without network."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={size[0]},{size[1]}",
                 "--host-resolver-rules=MAP * ~NOTFOUND"):  # fmt: skip
        options.add_argument(word)
    if dark:
        options.add_argument("--force-dark-mode")
        options.add_argument("--blink-settings=preferredColorScheme=0")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or ""))


def problems(driver: webdriver.Chrome, content: dict[str, object]) -> list[str]:
    """The problems of the open page."""
    messages = []

    def want(what: str, got: object, wanted: object) -> None:
        if got != wanted:
            messages.append(f"{what}: {got}, must be {wanted}")

    checks = content["checks"]
    assert isinstance(checks, list)
    every = driver.find_elements(By.CSS_SELECTOR, "details.check")
    want("checks", len(every), len(checks))
    want("heading", driver.find_element(By.TAG_NAME, "h1").text.split()[-1], content["verdict"])

    def shown() -> int:
        return sum(check.is_displayed() for check in every)

    words = driver.find_element(By.ID, "words")
    words.send_keys("step.update")
    named = [check for check in every if "step.update" in check.find_element(By.TAG_NAME, "code").text]
    want("checks of step.update", sum(check.is_displayed() for check in named), len(named))
    if not 0 < len(named) <= shown() < len(checks):
        messages.append(f"the filter shows {shown()} of {len(checks)} checks for step.update")
    driver.find_element(By.ID, "clear").send_keys(Keys.ENTER)
    want("checks after clearing by the keyboard", shown(), len(checks))
    driver.execute_script("const s=document.getElementById('rung');s.value='6';s.dispatchEvent(new Event('input'))")
    want("checks of rung 6", shown(), sum(check["rung"] == 6 for check in checks))
    want("count", driver.find_element(By.ID, "count").text, f"{shown()} of {len(checks)} checks")
    driver.find_element(By.ID, "clear").click()
    driver.find_element(By.ID, "open").click()
    want("open checks", sum(check.get_attribute("open") is not None for check in every), len(checks))
    driver.find_element(By.ID, "open").click()
    wide = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    want("pixels beyond the screen", max(wide, 0), 0)
    want("elements whose text runs past them", driver.execute_script(PAST), [])
    unnamed = driver.execute_script("return document.querySelectorAll('svg:not([aria-label])').length")
    want("pictures without a description", unnamed, 0)
    messages += [f"console: {entry['message']}" for entry in driver.get_log("browser")]
    return messages


def main() -> int:
    """Check the page on each screen."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    content = json.loads(source.read_text())
    file = out / "report.html"
    file.write_text(page(content))
    messages = []
    for name, size in SCREENS.items():
        for dark in (False, True):
            driver = browser(size, dark=dark)
            try:
                driver.get(file.resolve().as_uri())
                driver.save_screenshot(str(out / f"{name}-{'dark' if dark else 'light'}.png"))
                messages += [f"{name}: {problem}" for problem in problems(driver, content)]
                whole = driver.execute_script("return document.documentElement.scrollHeight")
                driver.set_window_size(size[0], whole + 200)
                driver.save_screenshot(str(out / f"{name}-{'dark' if dark else 'light'}-whole.png"))
            finally:
                driver.quit()
    print("\n".join(messages) or f"no problem; see {out}/*.png")
    return int(bool(messages))


if __name__ == "__main__":
    sys.exit(main())
