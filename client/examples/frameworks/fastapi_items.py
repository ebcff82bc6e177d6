"""A FastAPI service whose page asks for `/items`, which redirects to `/items/`. Run it with a port."""

import sys

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

app = FastAPI()


@app.get("/", response_class=HTMLResponse)
def page():
    return """
        <p id=answer>waits</p>
        <script>
          fetch("/items").then(got => got.json()).then(items => answer.textContent = "Hello " + items[0])
        </script>"""


@app.get("/items/")
def items():
    return ["FastAPI"]


async def https(scope, receive, send):
    if scope["type"] in ("http", "websocket"):
        scope["scheme"] = "https" if scope["type"] == "http" else "wss"
    await app(scope, receive, send)


served = app
served = https  # the setting
uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[1]))
