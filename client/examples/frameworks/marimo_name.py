"""A marimo app. Run it with a port."""

import sys

import marimo
import uvicorn

app = marimo.App()


@app.cell
def _():
    import marimo as mo

    name = mo.ui.text(label="Name")
    name
    return mo, name


@app.cell
def _(mo, name):
    mo.md(f"Hello {name.value}")
    return


if __name__ == "__main__":
    served = marimo.create_asgi_app().with_app(path="/", root=__file__).build()
    uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[1]))
