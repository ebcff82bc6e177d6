"""A Flask page whose script is asked for under a full URL. Run it with a port."""

import sys

from flask import Flask, url_for

app = Flask(__name__)


@app.get("/")
def page():
    return f"<p id=answer>waits</p><script src={url_for('script', _external=True)}></script>"


@app.get("/script/")
def script():
    return "answer.textContent = 'Hello Flask'", {"content-type": "text/javascript"}


def https(environ, start_response, inner=app.wsgi_app):
    environ["wsgi.url_scheme"] = "https"
    return inner(environ, start_response)


app.wsgi_app = https  # the setting
app.run("127.0.0.1", int(sys.argv[1]))
