"""Chromium without a screen, driven by selenium."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.world.programs import require

_WAIT_SECONDS = 20.0
PICTURES = Path(os.environ.get("SHOAL_SCREENSHOTS", Path(__file__).parents[2] / ".cache/screenshots"))
"""Where pictures of pages are left."""


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    @classmethod
    def start(cls, stack: ExitStack, url: str, *flags: str, name: str = "") -> Browser:
        """A window that has `url` as its home. `name`: one that is to lead to loopback, as a browser is told."""
        require("chromium", "chromedriver")
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *flags):
            options.add_argument(flag)
        if name:
            options.add_argument(f"--host-resolver-rules=MAP {name} 127.0.0.1")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        stack.callback(driver.quit)
        return cls(driver, url)

    def go(self, page: str = "") -> None:
        """Show a page of the dashboard."""
        self.driver.get(f"{self.url}/{page}")

    def resize(self, width: int, height: int) -> None:
        """Give the window's inside this size, in pixels of CSS."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)

    def colours(self, scheme: str) -> None:
        """What the system prefers: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def all(self, selector: str) -> list[WebElement]:
        """The elements of a selector of CSS that are there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first such element, waited for."""
        self.until(lambda: self.all(selector), f"{selector} is there")
        return self.all(selector)[0]

    def has(self, text: str, selector: str = "main") -> bool:
        """Whether a text is seen in an element."""
        return bool(
            self.run("return document.querySelector(arguments[0])?.innerText.includes(arguments[1])", selector, text)
        )

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until `condition` gives something."""
        return WebDriverWait(self.driver, _WAIT_SECONDS, 0.05).until(lambda _: condition(), f"not in time: {what}")

    def run(self, script: str, *arguments: object) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def tab_to(self, text: str, most: int = 60) -> None:
        """Press Tab until what has the focus has this text; fails behind so many."""
        for _ in range(most):
            self.press(Keys.TAB)
            if self.focused == text:
                return
        pytest.fail(f"{most} tabs do not lead to {text!r}")

    @property
    def focused(self) -> str:
        """The text of what has the focus."""
        return str(self.run("return document.activeElement.innerText ?? ''")).strip()

    def picture(self, name: str) -> Path:
        """Leave a picture of the window."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        file = PICTURES / f"{name}.png"
        self.driver.save_screenshot(str(file))
        return file

    def complaints(self) -> Iterator[str]:
        """What the page's scripts and its policy have complained of since it was asked last."""
        for entry in self.driver.get_log("browser"):  # type: ignore[no-untyped-call]
            yield f"{entry['level']}: {entry['message']}"
