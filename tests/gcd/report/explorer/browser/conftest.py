"""Chromium, a page opened in it, and what must never happen there."""

import os
import pathlib
import shutil
import warnings

import pytest

from eagc_jax.gcd.report.explorer import write_page

# Debian's name, and those that others give it.
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium():
    """The browser; without one these tests fail, as they were asked for."""
    from playwright.sync_api import sync_playwright

    given = os.environ.get("CHROMIUM")
    found = given or next(filter(None, map(shutil.which, _NAMES)), None)
    assert found, "no chromium was found: `make browser` installs it, or set CHROMIUM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the event loop that it brings along
        with sync_playwright() as playwright:
            # Its sandbox doesn't work for root, as whom containers often run.
            sandbox = hasattr(os, "geteuid") and os.geteuid() != 0
            browser = playwright.chromium.launch(
                executable_path=found, chromium_sandbox=sandbox, args=["--disable-gpu"]
            )
            yield browser
            browser.close()


class Opened:
    """A page that was opened, and what it said and asked for."""

    def __init__(self, context, path: pathlib.Path):
        self.wrong: list[str] = []
        self.path = path
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda said: self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        context.route("**/*", self._only_the_file)
        self.open()

    def _only_the_file(self, route):
        if route.request.url == self.path.as_uri():
            return route.continue_()
        self.wrong.append(f"asked for {route.request.url}")
        return route.abort()

    def open(self):
        """From the start."""
        self.page.goto(self.path.as_uri())
        self.page.wait_for_selector("#clusters .cluster")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def says(self, part):
        """Waits until the page says so."""
        said = self.page.locator("#said")
        self.page.wait_for_function(
            "part => document.querySelector('#said').textContent.includes(part)",
            arg=part,
        )
        assert part in said.inner_text()

    def action(self, name):
        return self.page.locator(f"[data-action={name}]")

    def tab(self, name):
        self.page.locator(f"#tab-{name}").click()

    def open_cluster(self, name):
        self.tab("clusters")
        self.page.locator("#clusters .open").filter(has_text=name).first.click()
        self.page.wait_for_selector("#detail")

    def check(self, *names):
        self.tab("clusters")
        for name in names:
            self.page.get_by_label(f"Select cluster {name}", exact=True).check()

    def select(self, *names):
        """Items by their ids, wherever they are: by search."""
        for name in names:
            self.page.fill("#query", name)
            self.page.locator("#items .item > button:first-child").filter(
                has=self.page.get_by_text(name, exact=True)
            ).first.click()
        self.page.fill("#query", "")

    def answer(self, **values):
        """Fills a dialog's fields by their labels, and says OK."""
        for label, value in values.items():
            field = self.page.locator("#dialog").get_by_label(label.replace("_", " "))
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        self.page.locator("#dialog-ok").click()

    def saved(self, path, by=None):
        """The file that is saved, by a click or otherwise."""
        with self.page.expect_download() as download:
            (by or self.action("save").click)()
        assert download.value.suggested_filename == "decisions.json"
        download.value.save_as(path)
        return path


@pytest.fixture
def opened(chromium, tmp_path):
    """Opens a discovery's page; afterwards nothing wrong may have happened."""
    contexts, pages = [], []

    def open_(discovery, *, width=1280, height=900, scheme="light", **more):
        path = tmp_path / "page.html"
        write_page(discovery, path, folder="animals-run")
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            accept_downloads=True,
            **more,
        )
        contexts.append(context)
        pages.append(Opened(context, path))
        return pages[-1]

    yield open_
    for context in contexts:
        context.close()
    for one in pages:
        assert one.wrong == []
