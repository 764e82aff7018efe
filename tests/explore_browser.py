"""A real headless Chromium for the tests and benchmarks of the explorer's and the study's page, and a page open in it."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
]  # fmt: skip
LAPTOP, WIDE = (1366, 768), (1920, 1080)


def missing() -> str:
    """Why there is no browser; empty where there is one."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return "no Chromium here (Debian: apt-get install chromium chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install analogist[test])"
    return ""


def need_browser() -> None:
    """Skips a test without Chromium; fails it where ANALOGIST_BROWSER=required."""
    reason = missing()
    if reason and os.environ.get("ANALOGIST_BROWSER") == "required":
        pytest.fail(f"ANALOGIST_BROWSER=required, but {reason}")
    if reason:
        pytest.skip(reason)


class Browser:
    """Chromium with a profile of its own. Pages are opened from disk."""

    def __init__(self) -> None:
        from selenium import webdriver

        self.folder = Path(tempfile.mkdtemp(prefix="explorer-browser-"))
        options = webdriver.ChromeOptions()
        for flag in [*FLAGS, f"--user-data-dir={self.folder / 'profile'}"]:
            options.add_argument(flag)
        options.binary_location = shutil.which("chromium")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        options.add_experimental_option("prefs", {"download.default_directory": str(self.folder)})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(300)
        self.resize(*LAPTOP)

    def resize(self, width: int, height: int) -> None:
        """The size of the page's window in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, path: Path, address: str = "") -> None:
        """Opens a page anew and waits for its first picture. Logs from before are dropped."""
        self.driver.get("about:blank")
        self.logs()
        self.driver.get(f"file://{path}{address}")
        self.settle()

    def js(self, code: str, *arguments: object):
        """Runs a script in the page."""
        return self.driver.execute_script(code, *arguments)

    def settle(self) -> None:
        """Waits until everything asked for is unpacked and drawn."""
        deadline = time.monotonic() + 300
        while not self.js("const page = window.explorer ?? window.study; return Boolean(page) && page.first() !== null && !page.busy()"):
            assert time.monotonic() < deadline, (self.js("return document.getElementById('problem')?.textContent"), self.logs())
            time.sleep(0.02)

    def until(self, holds: Callable[[], bool]) -> None:
        """Waits until something holds that the page does a while after the view rests."""
        deadline = time.monotonic() + 300
        while not holds():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    def go(self, **change: object) -> None:
        """Changes the view from the console."""
        self.js("(window.explorer ?? window.study).go(arguments[0])", change)
        self.settle()

    def shown(self) -> list[dict]:
        """What the pictures show, in numbers."""
        return self.js("return explorer.shown()")

    def state(self) -> dict:
        """The view."""
        return self.js("return (window.explorer ?? window.study).state()")

    def point(self, x: float, y: float) -> None:
        """Moves the mouse to a pixel of the grid picture, on the first picture."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By

        canvas = self.driver.find_element(By.CSS_SELECTOR, "#panel-0 .picture")
        box = self.js("const b = arguments[0].getBoundingClientRect(); return [b.left, b.top, b.width, b.height]", canvas)
        height, width = self.js("return JSON.parse(document.getElementById('manifest').textContent).sources[0].size")
        actions = ActionChains(self.driver, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(round(box[0] + x * box[2] / width), round(box[1] + y * box[3] / height))
        actions.perform()
        self.settle()

    def keys(self, *keys: str) -> None:
        """Presses keys, one after another."""
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()
            self.settle()

    def logs(self) -> tuple[list[str], list[str]]:
        """(console messages, addresses requested outside the page) since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return console, [url for url in asked if not url.startswith(("data:", "blob:", "about:", "file:"))]

    def close(self) -> None:
        """Ends the browser and removes its profile."""
        self.driver.quit()
        shutil.rmtree(self.folder, ignore_errors=True)
