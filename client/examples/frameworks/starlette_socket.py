"""A Starlette page with a style sheet and a WebSocket, both by `url_for`. Run it with a port."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute


async def page(request):
    socket = str(request.url_for("echo")).replace("http", "ws", 1)
    return HTMLResponse(f"""
        <link rel=stylesheet href={request.url_for("style")}>
        <p id=answer>waits</p>
        <script>
          const socket = new WebSocket("{socket}")
          socket.onopen = () => socket.send("Hello")
          socket.onmessage = message => answer.textContent = message.data
        </script>""")


async def style(request):
    return Response("p { color: rgb(0, 128, 0) }", media_type="text/css")


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text() + " Starlette")
    await websocket.close()


app = Starlette(routes=[Route("/", page), Route("/style.css", style), WebSocketRoute("/echo", echo)])


async def https(scope, receive, send):
    if scope["type"] in ("http", "websocket"):
        scope["scheme"] = "https" if scope["type"] == "http" else "wss"
    await app(scope, receive, send)


served = app
served = https  # the setting
uvicorn.run(served, host="127.0.0.1", port=int(sys.argv[1]))
