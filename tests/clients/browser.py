"""The page in headless Chromium: what an open page shows, what an admin does there, on a phone and in the dark.

    .venvs/browser/bin/python tests/clients/browser.py --open URL --admin URL --token TOKEN --shots DIR

Both addresses are of one mirror, prepared by tests/browser.rs: 58 repos of which `acme/hush` is private and `acme/odd` has names that
a careless page would run; a download of `acme/slow` under way; `acme/wanted` to be pulled. At --open the admin token is wanted, which
--admin wants too. Screenshots go to DIR. The exit code is 0 only if all of this held.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

BROWSERS = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
# How long something may take to show; the machine may be busy.
SHOWS_WITHIN = 30_000
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
ODD = "<img src=x onerror=\"document.title='run'\">"


def main() -> int:
    options = argparse.ArgumentParser(description="The page in headless Chromium.")
    for name in ("--open", "--admin", "--token", "--shots"):
        options.add_argument(name, required=True)
    options = options.parse_args()
    shots = Path(options.shots)
    shots.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=SHOWS_WITHIN)
    with sync_playwright() as playwright:
        # Containers run as root, where Chromium's own sandbox does not start; the page is ours.
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        looks(browser, options, shots)
        governs(browser, options, shots)
        browser.close()
    return 0


def find_browser() -> str | None:
    """Returns a browser of the system's, or nothing where playwright has brought its own."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def opened(browser, url: str, width: dict, scheme: str) -> tuple[Page, list[str]]:
    """Opens the page, and notes all that a browser complains of."""
    context = browser.new_context(viewport=width, color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(SHOWS_WITHIN)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    # What a reload breaks off is no complaint.
    page.on(
        "requestfailed",
        lambda request: None if "ERR_ABORTED" in request.failure else complaints.append(f"{request.url}: {request.failure}"),
    )
    page.goto(url)
    expect(page.locator("#upstream")).to_contain_text("mirrors http")
    return page, complaints


def looks(browser, options, shots: Path) -> None:
    """Somebody of the lab, who may look."""
    page, complaints = opened(browser, f"{options.open}/repos", DESKTOP, "light")
    rows = page.locator("#repos tr")
    expect(page.locator("#repos-note")).to_contain_text("public on the Hub")
    expect(page.locator("#count")).to_contain_text("57 repositories")
    assert "hush" not in page.content(), "a private repo shows"
    expect(page.locator("#pull")).to_be_hidden()
    expect(page.get_by_role("button", name="Remove")).to_have_count(0)

    # The address as the browser sees it, in three languages, by mouse and by keys.
    expect(page.locator("#code")).to_have_text(re.compile(f"export HF_ENDPOINT={re.escape(options.open)}\n"))
    page.get_by_role("tab", name="PowerShell").click()
    expect(page.locator("#code")).to_contain_text(f'$env:HF_ENDPOINT = "{options.open}"')
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_be_focused()
    expect(page.locator("#code")).to_contain_text(f'os.environ["HF_ENDPOINT"] = "{options.open}"')
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert options.open in page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("tab", name="Shell", exact=True).click()

    # What is under way moves.
    flight = page.locator("#flights li", has_text="acme/slow")
    expect(flight).to_contain_text("weights.bin")
    expect(flight).to_contain_text("/s")
    value = flight.locator("progress").evaluate("bar => bar.value")
    page.wait_for_function("before => document.querySelector('#flights progress').value > before", arg=value)

    # Pages, search, order.
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#span")).to_have_text("51–57 of 57")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_label("Search repositories").fill("many/repo-0*")
    expect(page.locator("#count")).to_contain_text("10 repositories")
    page.get_by_label("Search repositories").fill("no such thing")
    expect(page.locator("#repos-note")).to_contain_text("Nothing here matches.")
    page.get_by_label("Search repositories").fill("acme")
    page.get_by_role("button", name="Repository").click()
    expect(page.locator("th[aria-sort]")).to_have_text("Repository")
    first = rows.first.inner_text()
    page.get_by_role("button", name="Repository").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_count(1)
    assert rows.first.inner_text() != first

    # By keys: into a repo, and its files. Names of files are text, whatever they look like.
    page.get_by_label("Search repositories").fill("acme/odd")
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="acme/odd").press("Enter")
    expect(page.get_by_role("button", name="acme/odd")).to_have_attribute("aria-expanded", "true")
    files = page.locator("td.detail").get_by_role("button", name=re.compile("files?$"))
    files.press("Enter")
    expect(page.locator("td.detail")).to_contain_text(ODD)
    assert page.title() == "DingoSpeed" and page.locator("#repos img").count() == 0
    page.get_by_role("button", name="acme/odd").press("Enter")
    page.get_by_label("Search repositories").fill("")
    expect(rows).to_have_count(50)
    assert complaints == [], complaints

    # Trouble is told, and goes again.
    page.route("**/-/*", lambda route: route.abort())
    expect(page.locator("#alerts")).to_contain_text("does not answer")
    page.unroute("**/-/*")
    expect(page.locator("#alerts")).not_to_contain_text("does not answer")
    page.evaluate("setTimeout(() => { throw new Error('a fault of mine') })")
    expect(page.locator("#alerts")).to_contain_text("a fault of mine")
    page.get_by_role("button", name="Dismiss").last.click()

    # Another page's script does not run here, nor does this page lead elsewhere.
    complaints.clear()
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))")
    for _ in range(100):
        if complaints:
            break
        page.wait_for_timeout(100)
    assert page.title() == "DingoSpeed" and "Content Security Policy" in complaints[0], complaints
    shoot(browser, options.open, shots, "open", None)
    page.context.close()


def governs(browser, options, shots: Path) -> None:
    """The admin, at the admin's address."""
    page, complaints = opened(browser, options.admin, DESKTOP, "light")
    expect(page.locator("#code")).to_contain_text(f"export HF_ENDPOINT={options.open}\n")
    page.get_by_role("button", name="Admin", exact=True).click()
    page.get_by_label("Admin token").fill("not the one it is")
    page.keyboard.press("Enter")
    expect(page.locator("#alerts")).to_contain_text("not accepted")
    dismiss(page)
    page.get_by_role("button", name="Admin", exact=True).click()
    page.get_by_label("Admin token").fill(options.token)
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("button", name="Leave admin")).to_be_visible()
    expect(page.locator("#count")).to_contain_text("58 repositories")

    search = page.get_by_label("Search repositories")
    search.fill("acme/hush")
    row = page.locator("#repos tr", has_text="acme/hush")
    expect(row).to_contain_text("not public")
    row.get_by_role("button", name="Pin", exact=True).click()
    expect(row).to_contain_text("pinned")
    expect(row.get_by_role("button", name="Remove")).to_be_disabled()
    row.get_by_role("button", name="Unpin").click()
    expect(row.get_by_role("button", name="Remove")).to_be_enabled()
    row.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("dialog")).to_contain_text("Remove models/acme/hush?")
    page.screenshot(path=shots / "dialog.png")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(row).to_be_visible()
    row.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("#alerts")).to_contain_text("Removed models/acme/hush: 1 object")
    expect(row).to_have_count(0)

    # A pull that is cancelled, and one that ends.
    search.fill("")
    page.get_by_label("Repository", exact=True).fill("acme/slow")
    page.get_by_role("button", name="Pull", exact=True).click()
    pull = page.locator("#pulls li", has_text="acme/slow")
    expect(pull).to_contain_text("of 1 file")
    expect(pull.locator("progress")).to_be_visible()
    shoot(browser, options.admin, shots, "admin", options.token)
    pull.get_by_role("button", name="Cancel").click()
    expect(pull).to_contain_text("cancelled")
    page.get_by_label("Repository", exact=True).fill("models/acme/wanted")
    page.get_by_text("Only some files").click()
    page.get_by_label("Patterns to include").fill("*.json, *.txt")
    page.keyboard.press("Enter")
    pull = page.locator("#pulls li", has_text="acme/wanted")
    expect(pull).to_contain_text("done")
    expect(pull).to_contain_text("1 of 1 file")
    page.get_by_label("Repository", exact=True).fill("acme/none")
    page.get_by_role("button", name="Pull", exact=True).click()
    expect(page.locator("#pulls li", has_text="acme/none")).to_contain_text("failed")
    search.fill("acme/wanted")
    expect(page.locator("#repos tr", has_text="acme/wanted")).to_be_visible()

    # The tab remembers the token, and forgets it when told.
    page.reload()
    expect(page.get_by_role("button", name="Leave admin")).to_be_visible()
    # The browser itself notes the refusal of the wrong token.
    complaints = [line for line in complaints if "401" not in line]
    assert complaints == [], complaints
    page.get_by_role("button", name="Leave admin").click()
    expect(page.locator("#pull")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0
    page.context.close()


def dismiss(page: Page) -> None:
    for _ in range(page.get_by_role("button", name="Dismiss").count()):
        page.get_by_role("button", name="Dismiss").first.click()


def shoot(browser, url: str, shots: Path, name: str, token: str | None) -> None:
    """Takes pictures of all sizes and schemes; nothing may stick out at the side."""
    for size, viewport in (("phone", PHONE), ("desktop", DESKTOP)):
        for scheme in ("light", "dark"):
            page, complaints = opened(browser, f"{url}/repos", viewport, scheme)
            if token:
                page.evaluate("token => sessionStorage.setItem('dingospeed-admin', token)", token)
                page.reload()
                expect(page.get_by_role("button", name="Leave admin")).to_be_visible()
                expect(page.locator("#pulls li").first).to_be_visible()
            expect(page.locator("#repos tr").first).to_be_visible()
            page.get_by_label("Search repositories").fill("acme")
            expect(page.locator("#span")).to_be_hidden()
            page.get_by_role("button", name="acme/odd").click()
            expect(page.locator("td.detail ul")).to_be_visible()
            page.screenshot(path=shots / f"{name}-{size}-{scheme}.png", full_page=True)
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow == 0, f"{name} on a {size}: {overflow} pixels stick out"
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 384) == (scheme == "dark"), background
            assert complaints == [], complaints
            page.context.close()


if __name__ == "__main__":
    sys.exit(main())
