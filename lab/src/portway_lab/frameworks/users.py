"""What a user does in a browser with each of the programs.

Each function opens the tunnel's URL, does it, and returns when the right answer is on the page. Playwright's errors say
what was not there in time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from portway_lab.frameworks.programs import JUPYTER_TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

_FILE: Final[Any] = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"12345"}
_CELL: Final = ".jp-Notebook .jp-Cell .cm-content"
_OUTPUT: Final = ".jp-Notebook .jp-OutputArea-output"
_TRIES: Final = 6  # what is run before there is a kernel is dropped


@dataclass(frozen=True, slots=True)
class Case:
    """A framework, its program, the package whose version is shown, and what its user does."""

    framework: str
    program: str
    package: str
    does: str
    use: "Callable[[Page, str], None]"


def _expect(page: "Page", locator: str, text: str) -> None:
    page.locator(locator).filter(has_text=text).first.wait_for(state="attached")


def _form(page: "Page", url: str) -> None:
    page.goto(url)
    page.locator("input[name=name]").fill("Django")
    page.get_by_role("button").click()
    _expect(page, "#answer", "Hello Django")


def _greeting(name: str) -> "Callable[[Page, str], None]":
    def use(page: "Page", url: str) -> None:
        page.goto(url)
        _expect(page, "#answer", f"Hello {name}")

    return use


def _style(page: "Page", url: str) -> None:
    page.goto(url)
    _expect(page, "#answer", "Hello Starlette")
    page.wait_for_function("getComputedStyle(document.querySelector('#answer')).color === 'rgb(0, 128, 0)'")


def _login(page: "Page", url: str) -> None:
    page.goto(url)
    page.locator("input[name=name]").fill("Express")
    page.get_by_role("button").click()
    _expect(page, "#answer", "Hello Express")


def _propose_no_build(page: "Page") -> None:
    """Another framework brings an extension, and JupyterLab would ask at any moment whether to build it in."""
    page.route("**/lab/api/build*", lambda route: route.abort())


def _run_cell(page: "Page") -> None:
    cell = page.locator(_CELL).first
    cell.wait_for()
    cell.fill("print('the answer is', 6 * 7)")
    for _ in range(_TRIES):
        cell.press("Control+Enter")
        if _comes(page.locator(_OUTPUT).filter(has_text="the answer is 42")):
            return
    _expect(page, _OUTPUT, "the answer is 42")


def _lab(page: "Page", url: str) -> None:
    _propose_no_build(page)
    page.goto(f"{url}/lab?token={JUPYTER_TOKEN}")
    page.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    _run_cell(page)


def _notebook(page: "Page", url: str) -> None:
    _propose_no_build(page)
    page.goto(f"{url}/login?next=%2Ftree")
    page.locator("input[type=password]").first.fill(JUPYTER_TOKEN)
    page.locator("button[type=submit]").first.click()
    page.get_by_text("Select items to perform actions on them.").wait_for()
    made = page.evaluate(
        """async () => {
            const token = document.cookie.match(/_xsrf=([^;]+)/)[1]
            const headers = {"X-XSRFToken": token, "Content-Type": "application/json"}
            const got = await fetch("/api/contents", {method: "POST", headers, body: '{"type": "notebook"}'})
            return (await got.json()).path
        }"""
    )
    page.goto(f"{url}/notebooks/{made}")
    if _comes(page.get_by_role("button", name="Select", exact=True)):
        page.get_by_role("button", name="Select", exact=True).click()
    _run_cell(page)


def _comes(locator: "Locator") -> bool:
    from playwright.sync_api import Error

    try:
        locator.wait_for(timeout=5_000)
    except Error:
        return False
    return True


def _streamlit(page: "Page", url: str) -> None:
    page.goto(url)
    field = page.get_by_label("Name")
    field.fill("Streamlit")
    field.press("Enter")
    page.get_by_text("Hello Streamlit").wait_for()
    page.locator("input[type=file]").set_input_files(_FILE)
    page.get_by_text("5 bytes").wait_for()


def _gradio(page: "Page", url: str) -> None:
    page.goto(url)
    page.get_by_label("name").first.fill("Gradio")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_function(
        "[...document.querySelectorAll('textarea, input')].some(one => one.value === 'Hello Gradio')"
    )


def _dash(page: "Page", url: str) -> None:
    page.goto(url)
    page.locator("#name").fill("Dash")
    _expect(page, "#answer", "Hello Dash")


def _marimo(page: "Page", url: str) -> None:
    page.goto(url)
    field = page.get_by_label("Name").first
    field.fill("marimo")
    field.press("Enter")
    page.get_by_text("Hello marimo").first.wait_for()


CASES: Final = (
    Case("Django", "django_form.py", "django", "sends a form with a CSRF token", _form),
    Case("Flask", "flask_script.py", "flask", "a script by a full URL", _greeting("Flask")),
    Case("FastAPI", "fastapi_items.py", "fastapi", "fetches a path that redirects", _greeting("FastAPI")),
    Case("Starlette", "starlette_socket.py", "starlette", "a style sheet and a WebSocket by url_for", _style),
    Case("Express", "express_login.js", "express", "logs in; the session's cookie is for https", _login),
    Case("JupyterLab", "jupyter_lab.py", "jupyterlab", "runs a cell", _lab),
    Case("Jupyter Notebook", "jupyter_notebook.py", "notebook", "logs in, runs a cell", _notebook),
    Case("Streamlit", "streamlit_name.py", "streamlit", "fills a field, uploads a file", _streamlit),
    Case("Gradio", "gradio_name.py", "gradio", "submits a form", _gradio),
    Case("Dash", "dash_name.py", "dash", "fills a field", _dash),
    Case("marimo", "marimo_name.py", "marimo", "fills a field", _marimo),
)
